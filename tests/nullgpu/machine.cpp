#include "machine.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <sstream>

static std::recursive_mutex mutex;

// ---------------------------------------------------------------------------------------------
// Cards

static std::string own_folder() {
  Dl_info info;
  dladdr((void *)own_folder, &info);
  std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/'));
}

static std::string uuid_of(int number) {
  char text[64];
  snprintf(text, sizeof text, "GPU-%08x-86f3-7a43-b711-4771313afc50", 0xa1d4f087 + (number << 24));
  return text;
}

static std::vector<unsigned> read_numbers(const std::string &text) {
  std::vector<unsigned> numbers;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) numbers.push_back(std::stoul(word));
  return numbers;
}

static std::vector<Card> read_cards() {
  std::vector<Card> cards;
  std::ifstream file(own_folder() + "/cards");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name, memory, processors, capability, compute_mode, mig, throttling, processes;
    for (auto *field : {&name, &memory, &processors, &capability, &compute_mode, &mig, &throttling,
                        &processes})
      std::getline(fields, *field, '\t');
    int number = cards.size();
    cards.push_back({number, uuid_of(number), name, std::stoull(memory), std::stoi(processors),
                     std::stoi(capability), std::stoi(compute_mode), std::stoi(mig),
                     std::stol(throttling), read_numbers(processes)});
  }
  return cards;
}

std::vector<Card> &all_cards() {
  static std::vector<Card> cards = read_cards();
  return cards;
}

// CUDA's own order: the fastest first, unless CUDA_DEVICE_ORDER asks for that of the bus.
static std::vector<Card *> ordered_cards() {
  std::vector<Card *> cards;
  for (auto &card : all_cards()) cards.push_back(&card);
  const char *order = getenv("CUDA_DEVICE_ORDER");
  if (!order || strcmp(order, "PCI_BUS_ID"))
    std::stable_sort(cards.begin(), cards.end(), [](Card *a, Card *b) {
      return a->capability * a->processors > b->capability * b->processors;
    });
  return cards;
}

// A word of CUDA_VISIBLE_DEVICES: a number, or the beginning of an id that only one card has.
static Card *named_card(const std::vector<Card *> &cards, const std::string &word) {
  if (!word.empty() && word.find_first_not_of("0123456789") == std::string::npos) {
    size_t number = std::stoul(word);
    return number < cards.size() ? cards[number] : nullptr;
  }
  Card *match = nullptr;
  for (auto *card : cards) {
    if (word.rfind("GPU-", 0) || card->uuid.rfind(word, 0)) continue;
    if (match) return nullptr;
    match = card;
  }
  return match;
}

static std::vector<Card *> choose_visible() {
  auto cards = ordered_cards();
  const char *names = getenv("CUDA_VISIBLE_DEVICES");
  if (!names) return cards;
  std::vector<Card *> visible;
  std::istringstream words(names);
  for (std::string word; std::getline(words, word, ',');) {
    Card *card = named_card(cards, word);
    if (!card) break;  // those after a wrong name aren't visible either
    visible.push_back(card);
  }
  return visible;
}

std::vector<Card *> &visible_cards() {
  static std::vector<Card *> cards = choose_visible();
  return cards;
}

static thread_local int device;  // of this thread

int current_device() { return device; }

Card *current_card() {
  auto &cards = visible_cards();
  return cards.empty() ? nullptr : cards[device];
}

bool choose_device(int number) {
  if (number < 0 || number >= (int)visible_cards().size()) return false;
  device = number;
  return true;
}

cudaError_t card_health() {
  static std::string folder = own_folder();
  Card *card = current_card();
  if (!card) return cudaErrorNoDevice;
  std::string mark = folder + "/broken-" + std::to_string(card->number);
  return access(mark.c_str(), F_OK) ? cudaSuccess : cudaErrorECCUncorrectable;
}

int device_attribute(int attribute, int device) {
  Card &card = *visible_cards().at(device);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 227 << 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 228 << 10;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrTotalConstantMemory: return 65536;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxPitch: return 2147483647;
    case cudaDevAttrClockRate: return 1980000;         // kHz
    case cudaDevAttrMemoryClockRate: return 2619000;   // kHz
    case cudaDevAttrGlobalMemoryBusWidth: return 5120;  // bits
    case cudaDevAttrL2CacheSize: return 50 << 20;
    case cudaDevAttrMultiProcessorCount: return card.processors;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return 32;
    case cudaDevAttrComputeCapabilityMajor: return card.capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return card.capability % 10;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrCooperativeLaunch: return 1;
    case cudaDevAttrAsyncEngineCount: return 3;
    case cudaDevAttrPciBusId: return 0x10 + card.number;
    default: return 0;
  }
}

void *new_handle() {
  static std::atomic<uintptr_t> serial{0x1000};
  return (void *)(serial += 16);
}

// ---------------------------------------------------------------------------------------------
// The log

static FILE *file;
static int noted_card;  // which card the last line was about

static void open_log() {
  static bool looked = false;
  if (looked) return;
  looked = true;
  const char *folder = getenv("CUDA_NULLGPU_LOG");
  if (folder && *folder && !file)
    file = fopen((std::string(folder) + "/" + std::to_string(getpid()) + ".log").c_str(), "a");
}

void note(const char *format, ...) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  open_log();
  if (!file) return;
  Card *card = current_card();
  if (card && card->number != noted_card) fprintf(file, "D %d\n", noted_card = card->number);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(file, format, arguments);
  va_end(arguments);
  fputc('\n', file);
}

// For whoever has loaded the library with ctypes.
extern "C" {
void nullgpu_open(const char *path) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (file) fclose(file);
  file = path && *path ? fopen(path, "a") : nullptr;
}

void nullgpu_mark(const char *text) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  note("# %s", text);
  if (file) fflush(file);
}

size_t nullgpu_used() { return current_card()->used; }
size_t nullgpu_peak() { return current_card()->peak; }
void nullgpu_limit(size_t bytes) { current_card()->memory = bytes; }
}
