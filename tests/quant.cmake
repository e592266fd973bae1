# Block types, conversions and kernels.
ps_test(quant_type unit SOURCES test_quant_type.c LINK penstock_quant m)
ps_test(encode unit SOURCES test_encode.c LINK penstock_quant m)
ps_test(q8 unit SOURCES test_q8.c LINK penstock_quant m)
ps_test(checkkernel "kernel;unit"
  SOURCES checkkernel.c checkkernel_matmul.c checkkernel_vector.c checkkernel_q8.c
          checkkernel_encode.c
  LINK penstock_quant m)
