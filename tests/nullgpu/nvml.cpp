// What NVML tells about the cards: the library is found by the name libnvidia-ml.so.1, too. Its
// header is in no wheel, so types are ours; numbers are those of nvml.h.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>

#include "machine.h"

typedef int Status;
static const Status SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
                    INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15;
static const double WATTS = 300;

static Status give(char *text, unsigned length, const std::string &value) {
  if (value.size() >= length) return INSUFFICIENT_SIZE;
  strcpy(text, value.c_str());
  return SUCCESS;
}

static std::string bus_id(const Card &card) {
  char text[32];
  snprintf(text, sizeof text, "00000000:%02X:00.0", 0x10 + card.number);
  return text;
}

struct Process_v1 {  // nvmlProcessInfo_v1_t
  unsigned pid;
  unsigned long long used;
};

struct Process_v3 {  // nvmlProcessInfo_t
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};

template <class Process>
static Status list_processes(Card *card, unsigned *count, Process *processes) {
  unsigned room = *count;
  *count = card->processes.size();
  if (room < *count) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < *count; i++) processes[i] = {card->processes[i], 1 << 30};
  return SUCCESS;
}

struct Pci {  // nvmlPciInfo_t
  char legacy_id[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char id[32];
};

struct Memory {  // nvmlMemory_t
  unsigned long long total, unused, used;
};

extern "C" {
Status nvmlInit() { return SUCCESS; }
Status nvmlInit_v2() { return SUCCESS; }
Status nvmlInitWithFlags(unsigned) { return SUCCESS; }
Status nvmlShutdown() { return SUCCESS; }

const char *nvmlErrorString(Status status) {
  switch (status) {
    case SUCCESS: return "Success";
    case NOT_FOUND: return "Not Found";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Not Supported";
  }
}

Status nvmlSystemGetDriverVersion(char *text, unsigned length) {
  return give(text, length, "580.00.null");
}

Status nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = CUDART_VERSION;
  return SUCCESS;
}

Status nvmlDeviceGetCount_v2(unsigned *count) {
  *count = all_cards().size();
  return SUCCESS;
}

Status nvmlDeviceGetHandleByIndex_v2(unsigned index, Card **card) {
  if (index >= all_cards().size()) return INVALID_ARGUMENT;
  *card = &all_cards()[index];
  return SUCCESS;
}

Status nvmlDeviceGetHandleByUUID(const char *uuid, Card **handle) {
  for (auto &card : all_cards())
    if (card.uuid == uuid) {
      *handle = &card;
      return SUCCESS;
    }
  return NOT_FOUND;
}

Status nvmlDeviceGetHandleByPciBusId_v2(const char *id, Card **handle) {
  unsigned domain, bus;
  if (sscanf(id, "%x:%x:", &domain, &bus) != 2) return INVALID_ARGUMENT;
  return nvmlDeviceGetHandleByIndex_v2(bus - 0x10, handle) ? NOT_FOUND : SUCCESS;
}

Status nvmlDeviceGetIndex(Card *card, unsigned *index) {
  *index = card->number;
  return SUCCESS;
}

Status nvmlDeviceGetName(Card *card, char *text, unsigned length) {
  return give(text, length, card->name);
}

Status nvmlDeviceGetUUID(Card *card, char *text, unsigned length) {
  return give(text, length, card->uuid);
}

Status nvmlDeviceGetPciInfo_v3(Card *card, Pci *pci) {
  memset(pci, 0, sizeof *pci);
  pci->bus = 0x10 + card->number;
  give(pci->id, sizeof pci->id, bus_id(*card));
  return give(pci->legacy_id, sizeof pci->legacy_id, bus_id(*card).substr(4));
}

Status nvmlDeviceGetMemoryInfo(Card *card, Memory *memory) {
  *memory = {card->memory, card->memory - card->used, card->used};
  return SUCCESS;
}

Status nvmlDeviceGetComputeMode(Card *card, int *mode) {
  *mode = card->compute_mode;
  return SUCCESS;
}

Status nvmlDeviceGetMigMode(Card *card, unsigned *current, unsigned *pending) {
  *current = *pending = card->mig;
  return SUCCESS;
}

Status nvmlDeviceGetTotalEnergyConsumption(Card *, unsigned long long *millijoules) {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *millijoules = WATTS * (now.tv_sec * 1e3 + now.tv_nsec / 1e6);
  return SUCCESS;
}

Status nvmlDeviceGetCurrentClocksEventReasons(Card *card, unsigned long long *reasons) {
  *reasons = card->throttling;
  return SUCCESS;
}

// PyTorch asks for this one before it says that memory is out.
Status nvmlDeviceGetComputeRunningProcesses(Card *card, unsigned *count, Process_v1 *processes) {
  return list_processes(card, count, processes);
}

Status nvmlDeviceGetComputeRunningProcesses_v3(Card *card, unsigned *count, Process_v3 *processes) {
  return list_processes(card, count, processes);
}
}
