#include "core/topology.h"

#include <numa.h>
#include <sched.h>
#include <string.h>

/* The affinity mask as flags, for kernels built for more CPUs than cpu_set_t holds. Returns a
 * count. */
static int allowed_cpus(unsigned char allowed[PS_CPU_COUNT_MAX])
{
    int count = 0;
    memset(allowed, 0, PS_CPU_COUNT_MAX);
    for (int bits = CPU_SETSIZE; bits <= 1 << 16; bits *= 2) {
        cpu_set_t *set = CPU_ALLOC(bits);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE(bits);
        CPU_ZERO_S(bytes, set);
        /* EINVAL: the kernel's mask is longer than this one. */
        int failed = sched_getaffinity(0, bytes, set);
        for (int cpu = 0; !failed && cpu < PS_CPU_COUNT_MAX; cpu++) {
            allowed[cpu] = CPU_ISSET_S(cpu, bytes, set) != 0;
            count += allowed[cpu];
        }
        CPU_FREE(set);
        if (!failed)
            break;
    }
    if (count == 0) {
        allowed[0] = 1;
        count = 1;
    }
    return count;
}

static int node_of_cpu(int cpu, int have_numa)
{
    int node = have_numa ? numa_node_of_cpu(cpu) : 0;
    return node < 0 ? 0 : node;
}

void ps_topology_get(struct ps_topology *topo)
{
    unsigned char allowed[PS_CPU_COUNT_MAX];
    int node_of[PS_CPU_COUNT_MAX];
    int have_numa = numa_available() >= 0;

    memset(topo, 0, sizeof(*topo));
    allowed_cpus(allowed);
    int node_max = 0;
    for (int cpu = 0; cpu < PS_CPU_COUNT_MAX; cpu++) {
        node_of[cpu] = allowed[cpu] ? node_of_cpu(cpu, have_numa) : -1;
        if (node_of[cpu] > node_max)
            node_max = node_of[cpu];
    }

    /* Nodes ascending, CPUs ascending within each: later code cuts both into even ranges. */
    for (int node = 0; node <= node_max && topo->node_count < PS_NODE_COUNT_MAX; node++) {
        int before = topo->cpu_count;
        for (int cpu = 0; cpu < PS_CPU_COUNT_MAX; cpu++) {
            if (node_of[cpu] != node)
                continue;
            topo->cpu_id[topo->cpu_count] = cpu;
            topo->cpu_node[topo->cpu_count++] = topo->node_count;
        }
        if (topo->cpu_count > before)
            topo->node_id[topo->node_count++] = node;
    }
}
