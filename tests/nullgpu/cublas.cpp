// A cuBLAS, and a cuBLASLt, that note the products they are asked for.
#define __CUDA_FP16_H__  // these would need one more header that the wheels lack
#define __CUDA_BF16_H__
struct __half;
struct __nv_bfloat16;
#include <cublasLt.h>
#include <cublas_v2.h>

#include <cstring>

#include "machine.h"

// What is asked of a handle and needs no answer: any arguments, success.
#define SUCCEEDS(function) \
  cublasStatus_t nullgpu_##function() __asm__(#function); \
  cublasStatus_t nullgpu_##function() { return CUBLAS_STATUS_SUCCESS; }

using H = cublasHandle_t;
using O = cublasOperation_t;

static const char *type_name(int type) {
  switch (type) {
    case CUDA_R_32F: return "float32";
    case CUDA_R_64F: return "float64";
    case CUDA_R_16F: return "float16";
    case CUDA_R_16BF: return "bfloat16";
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2: return "float8";
    case CUDA_R_8I: return "int8";
    default: return "?";
  }
}

static cublasStatus_t product(const char *call, int type, long m, long n, long k, long batch) {
  note("G %ld %ld %ld %ld %s %s", m, n, k, batch, call, type_name(type));
  return card_health() ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

extern "C" {
SUCCEEDS(cublasDestroy_v2)
SUCCEEDS(cublasSetStream_v2)
SUCCEEDS(cublasSetWorkspace_v2)
SUCCEEDS(cublasSetMathMode)
SUCCEEDS(cublasSetPointerMode_v2)
SUCCEEDS(cublasSetSmCountTarget)

cublasStatus_t cublasCreate_v2(H *handle) {
  *handle = (H)new_handle();
  return card_health() ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(H, cublasMath_t *mode) {
  *mode = CUBLAS_DEFAULT_MATH;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetPointerMode_v2(H, cublasPointerMode_t *mode) {
  *mode = CUBLAS_POINTER_MODE_HOST;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(H, int *version) {
  *version = CUBLAS_VERSION;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_v2(H, O, O, int m, int n, int k, const float *, const float *, int,
                              const float *, int, const float *, float *, int) {
  return product("Sgemm", CUDA_R_32F, m, n, k, 1);
}

cublasStatus_t cublasDgemm_v2(H, O, O, int m, int n, int k, const double *, const double *, int,
                              const double *, int, const double *, double *, int) {
  return product("Dgemm", CUDA_R_64F, m, n, k, 1);
}

cublasStatus_t cublasSgemmEx(H, O, O, int m, int n, int k, const float *, const void *,
                             cudaDataType type, int, const void *, cudaDataType, int, const float *,
                             void *, cudaDataType, int) {
  return product("SgemmEx", type, m, n, k, 1);
}

cublasStatus_t cublasGemmEx(H, O, O, int m, int n, int k, const void *, const void *,
                            cudaDataType type, int, const void *, cudaDataType, int, const void *,
                            void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t) {
  return product("GemmEx", type, m, n, k, 1);
}

cublasStatus_t cublasGemmStridedBatchedEx(H, O, O, int m, int n, int k, const void *, const void *,
                                          cudaDataType type, int, long long, const void *,
                                          cudaDataType, int, long long, const void *, void *,
                                          cudaDataType, int, long long, int batch,
                                          cublasComputeType_t, cublasGemmAlgo_t) {
  return product("GemmStridedBatchedEx", type, m, n, k, batch);
}

cublasStatus_t cublasSgemmStridedBatched(H, O, O, int m, int n, int k, const float *, const float *,
                                         int, long long, const float *, int, long long,
                                         const float *, float *, int, long long, int batch) {
  return product("SgemmStridedBatched", CUDA_R_32F, m, n, k, batch);
}

cublasStatus_t cublasSgemv_v2(H, O, int m, int n, const float *, const float *, int, const float *,
                              int, const float *, float *, int) {
  return product("Sgemv", CUDA_R_32F, m, n, 1, 1);
}

cublasStatus_t cublasSdot_v2(H, int n, const float *, int, const float *, int, float *) {
  return product("Sdot", CUDA_R_32F, 1, 1, n, 1);
}

// ---------------------------------------------------------------------------------------------
// cuBLASLt: sizes are in the descriptors, which torch keeps in structures of opaque words

SUCCEEDS(cublasLtMatmulPreferenceCreate)
SUCCEEDS(cublasLtMatmulPreferenceDestroy)
SUCCEEDS(cublasLtMatmulPreferenceSetAttribute)

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

struct Description {
  int transposes_a;
};

struct Layout {
  int type, batch;
  unsigned long rows, columns;
};

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *made, cublasComputeType_t,
                                        cudaDataType_t) {
  *made = (cublasLtMatmulDesc_t) new Description{};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t made) {
  delete (Description *)made;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t made,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t) {
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSA)
    ((Description *)made)->transposes_a = *(const int *)value != CUBLAS_OP_N;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t) {
  *made = (cublasLtMatrixLayout_t) new Layout{type, 1, rows, columns};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t made) {
  delete (Layout *)made;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t made,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t) {
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
    ((Layout *)made)->batch = *(const int *)value;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *count) {
  memset(results, 0, sizeof *results);
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void *,
                              const void *, cublasLtMatrixLayout_t a, const void *,
                              cublasLtMatrixLayout_t, const void *, const void *,
                              cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t) {
  auto *left = (Layout *)a, *result = (Layout *)d;
  long k = ((Description *)description)->transposes_a ? left->rows : left->columns;
  return product("LtMatmul", left->type, result->rows, result->columns, k, result->batch);
}
}
