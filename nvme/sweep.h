/* What follows from a table of measurements (ps_probe_run). */
#ifndef PENSTOCK_NVME_SWEEP_H
#define PENSTOCK_NVME_SWEEP_H

#include "nvme/penstock_io.h"

/* Fills request_bytes and depth of every point. */
void ps_sweep_points(struct ps_probe_result *result);

/* Finds the knee and fills the profile from the points. At least one must have been measured. */
void ps_sweep_judge(struct ps_probe_result *result);

#endif
