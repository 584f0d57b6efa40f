"""python -m killed N MODULE ...: a command that `kill -9` meets in its work.

It comes when a file is whole, but before the N-th .array_record has its name:
the worst moment that there is.
"""

import os
import runpy
import signal
import sys


def main() -> None:
  _, count, module, *arguments = sys.argv
  left, rename = int(count), os.replace

  def replace(old, new):
    nonlocal left
    if str(new).endswith(".array_record"):
      left -= 1
      if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(old, new)

  os.replace = replace
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
