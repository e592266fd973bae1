# Block types, conversions and kernels.
ps_test(quant_type unit SOURCES test_quant_type.c LINK penstock_quant m)
ps_test(encode unit SOURCES test_encode.c LINK penstock_quant m)
ps_test(q8 unit SOURCES test_q8.c LINK penstock_quant m)
ps_test(checkkernel "kernel;unit"
  SOURCES checkkernel.c checkkernel_matmul.c checkkernel_vector.c checkkernel_q8.c
          checkkernel_encode.c checkkernel_amx.c
  LINK penstock_quant m)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  set_source_files_properties(checkkernel_amx.c PROPERTIES COMPILE_OPTIONS
    "-mavx2;-mfma;-mf16c;-mbmi;-mbmi2;-mavx512f;-mavx512bw;-mavx512cd;-mavx512dq;-mavx512vl;-mavx512vnni")
endif()
if(PS_SANITIZE) # as in quant/: minutes to compile, and checked without
  target_compile_definitions(test_checkkernel PRIVATE PS_SANITIZED)
endif()
