// The machine that the null GPU pretends to be. Its cards stand in the file `cards` beside the
// library, one a line (nullgpu.py writes it); a card fails while there is a file `broken-N`.
#pragma once
#include <cuda_runtime_api.h>

#include <string>
#include <vector>

struct Card {
  int number;  // in the order of the PCI bus, which is NVML's
  std::string uuid, name;
  size_t memory;  // bytes that CUDA may allocate
  int processors;
  int capability;    // 90 for sm_90
  int compute_mode;  // as NVML numbers it; 3 is EXCLUSIVE_PROCESS
  int mig;           // 1: multi-instance mode is on
  long throttling;   // NVML's bits of reasons
  std::vector<unsigned> processes;  // that compute on it, as NVML tells
  size_t used = 0, peak = 0;        // bytes, of this process
};

std::vector<Card> &all_cards();        // in the order of the PCI bus
std::vector<Card *> &visible_cards();  // as CUDA numbers them
Card *current_card();                  // of this thread; null where none is visible
int current_device();                  // its number for CUDA
bool choose_device(int device);        // false: there is none of this number
cudaError_t card_health();             // cudaSuccess, or what a broken card answers
int device_attribute(int attribute, int device);  // as runtime and driver number them
void *new_handle();                    // of a stream, an event, a module: nothing stands behind it
void note(const char *format, ...);    // a line of the log, see nullgpu.py
