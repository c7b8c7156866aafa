// A CUDA runtime that does nothing. Memory is reserved and can't be touched, kernels are noted and
// not run, so device memory holds nothing: what a copy to the host reads is made up. One byte is 1,
// as it is mostly a truth value; up to 255 bytes are zeros; more are floats of READ.
#include "machine.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

static const float READ = 10;  // nats of a useless model of up to 22,000 tokens: honest to probes
static const size_t FLOATS = 256, MOVED = 64 << 20;  // bytes; longer copies leave the host's as is

static std::mutex mutex;
static thread_local cudaError_t last_error;

// What a call returns: cudaGetLastError() tells it again.
static cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// ---------------------------------------------------------------------------------------------
// Memory

struct Block {
  size_t bytes;
  Card *card;  // null: pinned memory of the host
};
static std::map<uintptr_t, Block> blocks;

static Block *block_of(const void *pointer) {
  auto next = blocks.upper_bound((uintptr_t)pointer);
  if (next == blocks.begin()) return nullptr;
  auto &[start, block] = *--next;
  return (uintptr_t)pointer < start + std::max<size_t>(block.bytes, 1) ? &block : nullptr;
}

static size_t reserved_bytes(size_t bytes) {
  return ((bytes + 4095) & ~size_t(4095)) + (2 << 20);
}

static void *reserve(size_t bytes) {  // addresses alone: who touches them dies
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *pointer = mmap(nullptr, reserved_bytes(bytes), PROT_NONE, flags, -1, 0);
  return pointer == MAP_FAILED ? nullptr : pointer;
}

extern "C" {
cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  if (auto error = card_health()) return answer(error);
  std::lock_guard<std::mutex> lock(mutex);
  Card &card = *current_card();
  if (card.used + bytes > card.memory) {
    note("O out of memory: %zu used, %zu wanted", card.used, bytes);
    return answer(cudaErrorMemoryAllocation);
  }
  *pointer = reserve(bytes);
  if (!*pointer) return answer(cudaErrorMemoryAllocation);
  blocks[(uintptr_t)*pointer] = {bytes, &card};
  card.used += bytes;
  card.peak = std::max(card.peak, card.used);
  note("M %zu used %zu", bytes, card.used);
  return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  auto at = blocks.find((uintptr_t)pointer);
  if (at == blocks.end()) return cudaSuccess;
  Block &block = at->second;
  block.card->used -= block.bytes;
  munmap(pointer, reserved_bytes(block.bytes));
  note("F %zu", block.bytes);
  blocks.erase(at);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
  if (auto error = card_health()) return answer(error);
  *total = current_card()->memory;
  *unused = *total - current_card()->used;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) {
  *pointer = aligned_alloc(4096, (bytes + 4095) & ~size_t(4095));
  std::lock_guard<std::mutex> lock(mutex);
  blocks[(uintptr_t)*pointer] = {bytes, nullptr};
  note("H pinned %zu", bytes);
  return *pointer ? cudaSuccess : answer(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  blocks.erase((uintptr_t)pointer);
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void *, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void *) { return cudaSuccess; }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  memset(attributes, 0, sizeof *attributes);
  Block *block = block_of(pointer);
  attributes->device = current_device();
  if (!block) return cudaSuccess;  // type 0: unregistered memory of the host
  attributes->type = block->card ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  (block->card ? attributes->devicePointer : attributes->hostPointer) = (void *)pointer;
  auto &cards = visible_cards();
  for (size_t device = 0; device < cards.size(); device++)
    if (cards[device] == block->card) attributes->device = device;
  return cudaSuccess;
}

// ---------------------------------------------------------------------------------------------
// Memory of another process: its handle says how large it is, of which card

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  auto at = blocks.find((uintptr_t)pointer);
  if (at == blocks.end() || !at->second.card) return answer(cudaErrorInvalidValue);
  Block &block = at->second;
  memset(handle, 0, sizeof *handle);
  snprintf(handle->reserved, sizeof handle->reserved, "%zu %s", block.bytes,
           block.card->uuid.c_str());
  note("I handle %zu", block.bytes);
  return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **pointer, cudaIpcMemHandle_t handle, unsigned) {
  if (auto error = card_health()) return answer(error);
  size_t bytes = 0;
  char uuid[64] = "";
  if (sscanf(handle.reserved, "%zu %63s", &bytes, uuid) != 2) {
    fprintf(stderr, "nullgpu: no such memory to share: %.63s\n", handle.reserved);
    return answer(cudaErrorMapBufferObjectFailed);
  }
  if (current_card()->uuid != uuid) return answer(cudaErrorInvalidDevice);
  std::lock_guard<std::mutex> lock(mutex);
  *pointer = reserve(bytes);
  blocks[(uintptr_t)*pointer] = {bytes, current_card()};
  note("I open %zu", bytes);
  return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  blocks.erase((uintptr_t)pointer);
  return cudaSuccess;
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t) {
  memset(handle, 0, sizeof *handle);
  return cudaSuccess;
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t) {
  *event = (cudaEvent_t)new_handle();
  return cudaSuccess;
}

// ---------------------------------------------------------------------------------------------
// Copies

static void make_up(void *target, size_t bytes) {
  if (bytes > MOVED) return;
  memset(target, bytes == 1, bytes);
  if (bytes >= FLOATS) std::fill_n((float *)target, bytes / sizeof(float), READ);
}

static const char *host_kind(const Block *block) { return block ? "pinned" : "pageable"; }

static cudaError_t copy(void *target, const void *source, size_t bytes, const char *how) {
  if (auto error = card_health()) return answer(error);
  std::lock_guard<std::mutex> lock(mutex);
  Block *to = block_of(target), *from = block_of(source);
  bool to_card = to && to->card, from_card = from && from->card;
  if (to_card && from_card) note("C %zu DtoD %s", bytes, how);
  else if (to_card) note("C %zu HtoD %s %s", bytes, host_kind(from), how);
  else if (from_card) note("C %zu DtoH %s %s", bytes, host_kind(to), how);
  else note("C %zu HtoH %s", bytes, how);
  if (to_card) return cudaSuccess;
  if (from_card) make_up(target, bytes);
  else memcpy(target, source, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *target, const void *source, size_t bytes, cudaMemcpyKind) {
  return copy(target, source, bytes, "sync");
}

cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  return copy(target, source, bytes, "async");
}

cudaError_t cudaMemcpyPeerAsync(void *target, int, const void *source, int, size_t bytes,
                                cudaStream_t) {
  return copy(target, source, bytes, "peer");
}

cudaError_t cudaMemset(void *, int, size_t bytes) {
  note("Z %zu", bytes);
  return answer(card_health());
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(target, value, bytes);
}

cudaError_t cudaGetSymbolAddress(void **pointer, const void *) {
  static void *symbol = reserve(4096);
  *pointer = symbol;
  return cudaSuccess;
}

cudaError_t cudaMemcpyToSymbol(const void *, const void *, size_t, size_t, cudaMemcpyKind) {
  return cudaSuccess;
}

// ---------------------------------------------------------------------------------------------
// Kernels

static std::unordered_map<const void *, std::string> &kernels() {  // made before any registers
  static auto *names = new std::unordered_map<const void *, std::string>;
  return *names;
}

static cudaError_t launch(const void *kernel, dim3 grid, dim3 block) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    auto at = kernels().find(kernel);
    const char *name = at == kernels().end() ? "?" : at->second.c_str();
    note("K %u %u %u %u %s", grid.x, grid.y, grid.z, block.x * block.y * block.z, name);
  }
  return answer(card_health());
}

static void *module_of_kernels[8];

void **__cudaRegisterFatBinary(void *) { return module_of_kernels; }
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
char __cudaInitModule(void **) { return 1; }
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}

void __cudaRegisterFunction(void **, const char *kernel, char *, const char *name, int, void *,
                            void *, void *, void *, int *) {
  std::lock_guard<std::mutex> lock(mutex);
  kernels()[kernel] = name;
}

static thread_local struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} configuration;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *(cudaStream_t *)stream = configuration.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **, size_t,
                               cudaStream_t) {
  return launch((const void *)kernel, grid, block);
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **, size_t,
                             cudaStream_t) {
  return launch(kernel, grid, block);
}

cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **, size_t,
                                        cudaStream_t) {
  return launch(kernel, grid, block);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **) {
  return launch(kernel, config->gridDim, config->blockDim);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = current_card()->capability;
  attributes->maxDynamicSharedSizeBytes = 227 << 10;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int, size_t) {
  *blocks = 4;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *, int,
                                                                   size_t, unsigned) {
  *blocks = 4;
  return cudaSuccess;
}

cudaError_t library_load(void **library) __asm__("cudaLibraryLoadData");
cudaError_t library_load(void **library) {
  *library = module_of_kernels;
  return cudaSuccess;
}

cudaError_t library_kernel(void **kernel, void *, const char *name) __asm__("cudaLibraryGetKernel");
cudaError_t library_kernel(void **kernel, void *, const char *name) {
  *kernel = new_handle();
  std::lock_guard<std::mutex> lock(mutex);
  kernels()[*kernel] = name;
  return cudaSuccess;
}

cudaError_t library_unload(void *) __asm__("cudaLibraryUnload");
cudaError_t library_unload(void *) { return cudaSuccess; }

cudaError_t kernel_attribute(void *, int, int, int) __asm__("cudaKernelSetAttributeForDevice");
cudaError_t kernel_attribute(void *, int, int, int) { return cudaSuccess; }

// ---------------------------------------------------------------------------------------------
// Devices

cudaError_t cudaGetDeviceCount(int *count) {
  *count = visible_cards().size();
  return *count ? cudaSuccess : answer(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device) {
  *device = current_device();
  return visible_cards().empty() ? answer(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return choose_device(device) ? answer(card_health()) : answer(cudaErrorInvalidDevice);
}

static cudaError_t properties(cudaDeviceProp *p, int device) {
  if (device < 0 || device >= (int)visible_cards().size()) return answer(cudaErrorInvalidDevice);
  Card &card = *visible_cards()[device];
  auto attribute = [device](cudaDeviceAttr name) { return device_attribute(name, device); };
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "%s", card.name.c_str());
  for (int i = 0, at = 4; i < 16; i++, at += 2) {  // "GPU-a1d4f087-86f3-...": hexadecimal
    at += card.uuid[at] == '-';
    p->uuid.bytes[i] = (char)std::stoi(card.uuid.substr(at, 2), nullptr, 16);
  }
  p->totalGlobalMem = card.memory;
  p->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  p->sharedMemPerBlockOptin = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  p->sharedMemPerMultiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  p->regsPerBlock = attribute(cudaDevAttrMaxRegistersPerBlock);
  p->regsPerMultiprocessor = attribute(cudaDevAttrMaxRegistersPerMultiprocessor);
  p->warpSize = attribute(cudaDevAttrWarpSize);
  p->memPitch = attribute(cudaDevAttrMaxPitch);
  p->maxThreadsPerBlock = attribute(cudaDevAttrMaxThreadsPerBlock);
  for (int i = 0; i < 3; i++) {
    p->maxThreadsDim[i] = attribute(cudaDeviceAttr(cudaDevAttrMaxBlockDimX + i));
    p->maxGridSize[i] = attribute(cudaDeviceAttr(cudaDevAttrMaxGridDimX + i));
  }
  p->totalConstMem = attribute(cudaDevAttrTotalConstantMemory);
  p->major = attribute(cudaDevAttrComputeCapabilityMajor);
  p->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  p->multiProcessorCount = card.processors;
  p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
  p->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  p->maxBlocksPerMultiProcessor = attribute(cudaDevAttrMaxBlocksPerMultiprocessor);
  p->memoryBusWidth = attribute(cudaDevAttrGlobalMemoryBusWidth);
  p->asyncEngineCount = attribute(cudaDevAttrAsyncEngineCount);
  p->pciBusID = attribute(cudaDevAttrPciBusId);
  p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = p->cooperativeLaunch = 1;
  return cudaSuccess;
}

cudaError_t properties_13(cudaDeviceProp *, int) __asm__("cudaGetDeviceProperties");
cudaError_t properties_13(cudaDeviceProp *p, int device) { return properties(p, device); }
cudaError_t properties_12(cudaDeviceProp *, int) __asm__("cudaGetDeviceProperties_v2");
cudaError_t properties_12(cudaDeviceProp *p, int device) { return properties(p, device); }

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  *value = device_attribute(attribute, device);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
  snprintf(text, length, "0000:%02x:00.0", device_attribute(cudaDevAttrPciBusId, device));
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
  *can = 0;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

static cudaError_t find_driver_function(const char *name, void **function, int *status) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (status) *status = *function ? 0 : 1;  // cudaDriverEntryPointSymbolNotFound
  return *function ? cudaSuccess : answer(cudaErrorSymbolNotFound);
}

cudaError_t entry(const char *, void **, unsigned long long, int *)
    __asm__("cudaGetDriverEntryPoint");
cudaError_t entry(const char *name, void **function, unsigned long long, int *status) {
  return find_driver_function(name, function, status);
}

cudaError_t entry_by_version(const char *, void **, unsigned, unsigned long long, int *)
    __asm__("cudaGetDriverEntryPointByVersion");
cudaError_t entry_by_version(const char *name, void **function, unsigned, unsigned long long,
                             int *status) {
  return find_driver_function(name, function, status);
}

// ---------------------------------------------------------------------------------------------
// Streams and events: all is done as soon as it is asked for

static cudaError_t synchronize(const char *call) {
  note("S %s", call);
  return answer(card_health());
}

cudaError_t cudaDeviceSynchronize() { return synchronize("cudaDeviceSynchronize"); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return synchronize("cudaStreamSynchronize"); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return synchronize("cudaEventSynchronize"); }

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
  *stream = (cudaStream_t)new_handle();
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  return cudaStreamCreate(stream);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned, int) {
  return cudaStreamCreate(stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaStreamGetPriority(cudaStream_t, int *priority) {
  *priority = 0;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  *event = (cudaEvent_t)new_handle();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  note("E record");
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

static cudaError_t elapsed(float *milliseconds) {
  *milliseconds = 1;
  return cudaSuccess;
}
cudaError_t elapsed_1(float *) __asm__("cudaEventElapsedTime");
cudaError_t elapsed_1(float *milliseconds) { return elapsed(milliseconds); }
cudaError_t elapsed_2(float *) __asm__("cudaEventElapsedTime_v2");
cudaError_t elapsed_2(float *milliseconds) { return elapsed(milliseconds); }

// ---------------------------------------------------------------------------------------------
// Graphs: what is captured is noted as if it ran, a launch of it is one line

static cudaStream_t captured;
static bool is_capturing;

static cudaError_t capture_info(cudaStream_t stream, int *status, unsigned long long *id) {
  bool active = is_capturing && stream == captured;
  *status = active ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (id) *id = active;
  return cudaSuccess;
}

// Three versions, alike in their first arguments.
#define CAPTURE_INFO(function, symbol)                                                          \
  cudaError_t function(cudaStream_t, int *, unsigned long long *) __asm__(symbol);              \
  cudaError_t function(cudaStream_t stream, int *status, unsigned long long *id) {              \
    return capture_info(stream, status, id);                                                    \
  }
CAPTURE_INFO(capture_info_1, "cudaStreamGetCaptureInfo")
CAPTURE_INFO(capture_info_2, "cudaStreamGetCaptureInfo_v2")
CAPTURE_INFO(capture_info_3, "cudaStreamGetCaptureInfo_v3")

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  return capture_info(stream, (int *)status, nullptr);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *) { return cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  captured = stream;
  is_capturing = true;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
  is_capturing = false;
  *graph = (cudaGraph_t)new_handle();
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t *, size_t *count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t, unsigned long long) {
  *made = (cudaGraphExec_t)new_handle();
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
  note("L graph");
  return answer(card_health());
}

cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }

// Nothing stands in for cuDNN. With so old a version PyTorch takes another attention.
size_t cudnnGetVersion() { return 8000; }

// ---------------------------------------------------------------------------------------------
// Errors

const char *cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheNullGPU"; }

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
    case cudaErrorNotSupported: return "operation not supported (by the null GPU)";
    default: return "an error of the null GPU";
  }
}

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetLastError() {
  auto error = last_error;
  last_error = cudaSuccess;
  return error;
}
}
