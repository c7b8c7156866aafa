// A CUDA driver, for Triton: the library is found by the name libcuda.so.1, too.
#include <cuda.h>

#include <cstring>
#include <set>
#include <string>

#include "machine.h"

static CUresult answer() { return card_health() ? CUDA_ERROR_ECC_UNCORRECTABLE : CUDA_SUCCESS; }

static CUresult launch(CUfunction function, dim3 grid, unsigned threads) {
  note("T %u %u %u %u %s", grid.x, grid.y, grid.z, threads, (const char *)function);
  return answer();
}

extern "C" {
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int *version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = cudaGetErrorString((cudaError_t)error);
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
  *text = cudaGetErrorName((cudaError_t)error);
  return CUDA_SUCCESS;
}

// Contexts: each card has the one that the runtime made

CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = (CUcontext)current_card();
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent(CUcontext *context) { return cuCtxGetCurrent(context); }
CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }

CUresult cuCtxGetDevice(CUdevice *device) {
  *device = current_device();
  return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(size_t *value, CUlimit) {
  *value = 1 << 20;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) { return cuCtxGetCurrent(context); }
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }

CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned *flags, int *is_active) {
  *flags = 0;
  *is_active = 1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int number) {
  *device = number;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  *count = visible_cards().size();
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  *value = device_attribute(attribute, device);
  return CUDA_SUCCESS;
}

// Kernels: a function is its name

static CUresult load(CUmodule *module) {
  *module = (CUmodule)new_handle();
  return answer();
}

CUresult cuModuleLoad(CUmodule *module, const char *) { return load(module); }
CUresult cuModuleLoadData(CUmodule *module, const void *) { return load(module); }
CUresult cuModuleLoadDataEx(CUmodule *module, const void *, unsigned, CUjit_option *, void **) {
  return load(module);
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
  static auto *names = new std::set<std::string>;
  *function = (CUfunction)names->insert(name).first->c_str();
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024
           : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS            ? 32
                                                                : 0;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned, CUstream, void **, void **) {
  return launch(function, dim3{x, y, z}, block_x * block_y * block_z);
}

CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned x, unsigned y, unsigned z,
                                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned,
                                   CUstream, void **) {
  return launch(function, dim3{x, y, z}, block_x * block_y * block_z);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **, void **) {
  unsigned threads = config->blockDimX * config->blockDimY * config->blockDimZ;
  return launch(function, dim3{config->gridDimX, config->gridDimY, config->gridDimZ}, threads);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction, int, size_t) {
  *blocks = 4;
  return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction, const CUlaunchConfig *) {
  *clusters = 16;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)value = pointer;
  else *(int *)value = attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE ? CU_MEMORYTYPE_DEVICE
                                                                     : current_device();
  return CUDA_SUCCESS;
}

CUresult tensor_map_tiled() __asm__("cuTensorMapEncodeTiled");
CUresult tensor_map_tiled() { return CUDA_SUCCESS; }
CUresult tensor_map_im2col() __asm__("cuTensorMapEncodeIm2col");
CUresult tensor_map_im2col() { return CUDA_SUCCESS; }
}
