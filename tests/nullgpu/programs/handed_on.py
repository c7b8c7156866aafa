"""Has the referee of this process hand the null GPU on to all that it starts.

It hands on a driver that LD_LIBRARY_PATH names. The runtime is not of the driver: PyTorch brings
its own, which only LD_PRELOAD replaces.
"""

import os

from ratchet.referee import environment, limits, sandbox

environment.INHERITED += " LD_PRELOAD"
sandbox.driver_libraries = lambda: [os.environ["LD_LIBRARY_PATH"]]
# tests share their machine with other programs
limits.FOREIGN_CPU_SHARE = dict.fromkeys(limits.FOREIGN_CPU_SHARE, 99.0)
