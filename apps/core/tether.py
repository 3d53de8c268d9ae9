"""Run a program that the kernel ends when its parent ends: tether.py PARENT SIGNAL ARGV...

A script of its own, so that nothing has to run between fork and exec of a process with
threads. It becomes the program: no process is left in between. Where there is no such
system call (macOS), the program simply runs on, and the next `up` ends it.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, signal, *argv = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
        if os.getppid() != int(parent):  # it ended before the line above
            sys.exit(1)
    os.execvp(argv[0], argv)
