/* check_headers.c - the headers in tests/kernels/include say what the toolkit's say: this file is
 * compiled with the one and, by make CUDA=1, with the other. Values by assertion, signatures by
 * pointers of the type that the doubles have. Nothing runs. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#define IS(name, value) _Static_assert((int)(name) == (value), #name)

IS(cudaSuccess, 0);
IS(cudaErrorInvalidValue, 1);
IS(cudaErrorMemoryAllocation, 2);
IS(cudaErrorInvalidConfiguration, 9);
IS(cudaErrorInsufficientDriver, 35);
IS(cudaErrorNoDevice, 100);
IS(cudaErrorInvalidDevice, 101);
IS(cudaErrorInvalidResourceHandle, 400);
IS(cudaErrorNotReady, 600);
IS(cudaErrorIllegalAddress, 700);
IS(cudaErrorLaunchFailure, 719);
IS(cudaErrorNotSupported, 801);
IS(cudaErrorUnknown, 999);
IS(cudaMemcpyHostToDevice, 1);
IS(cudaMemcpyDeviceToHost, 2);
IS(cudaMemcpyDeviceToDevice, 3);
IS(cudaDevAttrComputeCapabilityMajor, 75);
IS(cudaDevAttrComputeCapabilityMinor, 76);
IS(cudaDevAttrMaxSharedMemoryPerBlockOptin, 97);
IS(cudaDevAttrHostRegisterReadOnlySupported, 113);
IS(cudaFuncAttributeMaxDynamicSharedMemorySize, 8);
IS(cudaStreamNonBlocking, 1);
IS(cudaEventBlockingSync, 1);
IS(cudaEventDisableTiming, 2);
IS(cudaHostAllocMapped, 2);
IS(cudaHostRegisterDefault, 0);
IS(cudaHostRegisterReadOnly, 8);

IS(CUBLAS_STATUS_SUCCESS, 0);
IS(CUBLAS_STATUS_NOT_SUPPORTED, 15);
IS(CUBLAS_OP_T, 1);
IS(CUBLAS_COMPUTE_32F, 68);
IS(CUBLAS_COMPUTE_32I, 72);
IS(CUDA_R_32F, 0);
IS(CUDA_R_16F, 2);
IS(CUDA_R_8I, 3);
IS(CUDA_R_32I, 10);
IS(CUDA_R_16BF, 14);
IS(CUDA_R_8F_E4M3, 28);
IS(CUBLASLT_MATRIX_LAYOUT_COLS, 3);
IS(CUBLASLT_MATRIX_LAYOUT_LD, 4);
IS(CUBLASLT_MATMUL_DESC_TRANSA, 3);
IS(CUBLASLT_MATMUL_DESC_EPILOGUE, 7);
IS(CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8);
IS(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 26);
IS(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, 17);
IS(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, 18);
IS(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, 31);
IS(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, 32);
IS(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, 3);
IS(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1);
IS(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 3);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 5);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 8);
IS(CUBLASLT_ALGO_CONFIG_ID, 0);
IS(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 2);
IS(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 3);
IS(CUBLASLT_REDUCTION_SCHEME_NONE, 0);
IS(CUBLASLT_EPILOGUE_DEFAULT, 1);
IS(CUBLASLT_EPILOGUE_BIAS, 4);
IS(sizeof(cublasLtMatmulAlgo_t), 64);
IS(sizeof(cublasLtMatmulDescOpaque_t), 256);
IS(sizeof(cublasLtMatrixLayoutOpaque_t), 64);
IS(sizeof(cublasLtMatmulPreferenceOpaque_t), 64);

IS(ncclSuccess, 0);
IS(ncclInvalidUsage, 5);
IS(ncclInProgress, 7);
IS(ncclUint8, 1);
IS(ncclFloat16, 6);
IS(ncclFloat32, 7);
IS(ncclBfloat16, 9);
IS(sizeof(ncclUniqueId), 128);

/* Every function that the GPU's host code calls. */
struct signatures {
    cudaError_t (*malloc_)(void **, size_t);
    cudaError_t (*host_alloc)(void **, size_t, unsigned int);
    cudaError_t (*host_register)(void *, size_t, unsigned int);
    cudaError_t (*copy)(void *, const void *, size_t, enum cudaMemcpyKind, cudaStream_t);
    cudaError_t (*copy_2d)(
        void *, size_t, const void *, size_t, size_t, size_t, enum cudaMemcpyKind, cudaStream_t);
    cudaError_t (*set)(void *, int, size_t, cudaStream_t);
    cudaError_t (*stream)(cudaStream_t *, unsigned int);
    cudaError_t (*wait)(cudaStream_t, cudaEvent_t, unsigned int);
    cudaError_t (*host_function)(cudaStream_t, cudaHostFn_t, void *);
    cudaError_t (*event)(cudaEvent_t *, unsigned int);
    cudaError_t (*record)(cudaEvent_t, cudaStream_t);
    cudaError_t (*elapsed)(float *, cudaEvent_t, cudaEvent_t);
    cudaError_t (*attribute)(int *, enum cudaDeviceAttr, int);
    cudaError_t (*properties)(struct cudaDeviceProp *, int);
    cublasStatus_t (*layout)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*desc)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
        cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t[], int *);
    cublasStatus_t (*check)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
        const cublasLtMatmulAlgo_t *, cublasLtMatmulHeuristicResult_t *);
    cublasStatus_t (*multiply)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *,
        cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t, const void *, const void *,
        cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *,
        void *, size_t, cudaStream_t);
    ncclResult_t (*init)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *);
    ncclResult_t (*send)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*receive)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
};
extern const struct signatures checked_signatures;
const struct signatures checked_signatures = {cudaMalloc, cudaHostAlloc, cudaHostRegister,
    cudaMemcpyAsync, cudaMemcpy2DAsync, cudaMemsetAsync, cudaStreamCreateWithFlags,
    cudaStreamWaitEvent, cudaLaunchHostFunc, cudaEventCreateWithFlags, cudaEventRecord,
    cudaEventElapsedTime, cudaDeviceGetAttribute, cudaGetDeviceProperties,
    cublasLtMatrixLayoutCreate, cublasLtMatmulDescCreate, cublasLtMatmulAlgoGetHeuristic,
    cublasLtMatmulAlgoCheck, cublasLtMatmul, ncclCommInitRankConfig, ncclSend, ncclRecv};
