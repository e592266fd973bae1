/* NUMA nodes and the CPUs that this process may use. */
#ifndef PENSTOCK_CORE_TOPOLOGY_H
#define PENSTOCK_CORE_TOPOLOGY_H

#include <stddef.h>

#define PS_NODE_COUNT_MAX 64
#define PS_CPU_COUNT_MAX 1024

/* Only nodes with a usable CPU are listed; a machine without NUMA has one node, 0. */
struct ps_topology {
    int node_count;
    int node_id[PS_NODE_COUNT_MAX]; /* kernel node numbers, ascending */
    int cpu_count;                  /* CPUs in this process's affinity mask (cpusets included) */
    int cpu_id[PS_CPU_COUNT_MAX];   /* kernel CPU numbers, ascending within node, nodes in order */
    int cpu_node[PS_CPU_COUNT_MAX]; /* index into node_id for each */
};

/* Fills *topo from the affinity mask and libnuma. Cannot fail. */
void ps_topology_get(struct ps_topology *topo);

#endif
