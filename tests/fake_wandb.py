"""A module `wandb` that keeps what it is told."""

import types


class Run:
  """A run: its config, its log, and its exit code."""

  def __init__(self, options):
    self.options, self.settings, self.logged = options, {}, []
    self.exit_code = self.defined = None
    self.config = types.SimpleNamespace(update=self._update)
    self.broken = False

  def _update(self, config, allow_val_change):
    assert allow_val_change
    self.settings |= config

  def define_metric(self, name, *, step_metric):
    self.defined = name, step_metric

  def log(self, values):
    if self.broken:
      raise ConnectionResetError("gone\nfor good")
    self.logged.append(values)

  def finish(self, *, exit_code):
    self.exit_code = exit_code


class Wandb(types.ModuleType):
  """The module; `runs` are those that were started."""

  def __init__(self, *, reachable=True):
    super().__init__("wandb")
    self.runs, self.reachable, self.in_use = [], reachable, False
    self.unusable = False

  def teardown(self):
    self.in_use = False

  def Settings(self, **settings):  # the name that the real one has
    assert settings["console"] == "off"
    return types.SimpleNamespace(
        **settings, x_transaction_log_flush_interval=15.0
    )

  def init(self, **options):
    if options["mode"] == "online" and not self.reachable:
      self.in_use = True
      raise RuntimeError("no such host")
    if self.in_use or self.unusable:
      raise RuntimeError("run ID is in use")
    self.runs.append(Run(options))
    return self.runs[-1]
