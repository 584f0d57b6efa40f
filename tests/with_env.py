"""Runs a module in an environment: NAME=VALUE... MODULE ARGUMENTS..."""

import os
import runpy
import sys

if __name__ == "__main__":
  sys.argv.pop(0)
  while "=" in sys.argv[0]:
    name, _, value = sys.argv.pop(0).partition("=")
    os.environ[name] = value
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
