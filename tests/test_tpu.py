"""The slice: tpu/create.sh, setup.sh, status.sh, delete.sh, and dry runs.

Against a fake gcloud (fake_gcloud.py) whose workers run for real.
"""

import ast
from pathlib import Path
import re
import shlex

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = "configs/tiny.py:name=a"
WORKDIR = "bucket/runs/tiny"


def planned(cloud, script, *arguments, **settings):
  """The commands that a dry run prints, without a gcloud on the PATH."""
  settings |= dict(DRY_RUN="1", PATH=str(cloud.place / "tools"))
  done = cloud.run(script, *arguments, **settings)
  lines = [shlex.split(c) for c in re.split(r"^gcloud ", done.out, flags=re.M)]
  assert not lines[0], done.out
  return plain(lines[1:])


def plain(calls):
  """Each worker's calls in their order, without repeated questions."""
  found = {}
  for call in calls:
    worker = next((w for w in call if w.startswith("--worker=")), "")
    words = [re.sub(r"^/\S*/(siglip_jax.tar.gz)$", r"\1", w) for w in call]
    mine = found.setdefault(worker, [])
    if not mine or mine[-1] != words:
      mine.append(words)
  return found


RUN = (CONFIG, WORKDIR, "--config.name=it's (\"a\", 'b')  $HOME")
PYTHON = ("python", "siglip_jax.main", "--out=a b")
SETUP = [("create",), ("setup",)]
LOOK = [("status",), ("logs",), ("logs", "all"), ("stop",), ("delete",)]


@pytest.mark.parametrize(
    "queued, scripts",
    [
        ("0", [*SETUP, PYTHON, ("run", *RUN), *LOOK]),
        ("1", [("watch", *RUN), LOOK[-1]]),
    ],
)
def test_dry_runs_print_what_is_done(empty_cloud, queued, scripts):
  settings = dict(QUEUED=queued, NETWORK="my net", VALID_UNTIL="6h")
  for script, *arguments in scripts:
    wanted = planned(empty_cloud, script, *arguments, **settings)
    assert not empty_cloud.calls(), "a dry run called gcloud"
    empty_cloud.run(script, *arguments, **settings)
    assert plain(empty_cloud.calls(forget=True)) == wanted, script


def test_create_asks_as_the_settings_say(empty_cloud):
  empty_cloud.run("create", PROVISIONING="reserved", SERVICE_ACCOUNT="me@x")
  [asked] = [c for c in empty_cloud.calls(forget=True) if c[3] == "create"]
  assert asked[:5] == [
      *("compute", "tpus", "queued-resources", "create", "siglip-queue")
  ]
  assert set(asked[5:]) == {
      "--node-id=siglip",
      "--accelerator-type=v4-16",
      "--runtime-version=tpu-ubuntu2204-base",
      "--reserved",
      "--service-account=me@x",
      "--scopes=https://www.googleapis.com/auth/cloud-platform",
      "--project=my-project",
      "--zone=us-central2-b",
  }
  empty_cloud.state(node=None, queue=None)
  v6e = dict(ACCELERATOR_TYPE="v6e-8", QUEUED="0", PROVISIONING="on-demand")
  empty_cloud.run("create", INTERNAL_IP="1", **v6e)
  [asked] = [c for c in empty_cloud.calls() if c[3] == "create"]
  assert "--version=v2-alpha-tpuv6e" in asked and "--internal-ips" in asked
  assert not {"--spot", "--reserved"} & set(asked)
  empty_cloud.state(node=None)
  empty_cloud.run("create", QUEUED="0", PROVISIONING="spot")
  assert "--spot" in empty_cloud.calls()[-2]


def test_create_waits_in_the_queue_and_goes_on_waiting(empty_cloud):
  empty_cloud.state(waits=["ACCEPTED", "WAITING_FOR_RESOURCES", "FAILED"])
  done = empty_cloud.run("create", status=75)
  assert "siglip-queue: WAITING_FOR_RESOURCES\n" in done.out
  assert re.search(r"is FAILED.*tpu/delete.sh", done.err)
  # Interrupted in the queue: the same request is waited for.
  empty_cloud.calls(forget=True)
  empty_cloud.state(queue=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
  assert "siglip: READY" in empty_cloud.run("create").out
  assert "create" not in empty_cloud.verbs()
  empty_cloud.run("create")
  assert "create" not in empty_cloud.verbs()


@pytest.mark.parametrize(
    "status, said, match",
    [
        (
            2,
            "ERROR: (gcloud) Quota limit 'TPUV4sPreemptiblePerProjectPerZone'"
            " has been exceeded. Limit: 0 in zone us-central2-b.",
            "quota of project my-project in us-cen.*spot v4-16.*Limit: 0",
        ),
        (75, 'There is no more capacity in the zone "z"', "has no free v4-16"),
        (
            2,
            "ERROR: (gcloud) You do not currently have an active account"
            " selected.",
            "not logged in. Run 'gcloud auth login'",
        ),
        (
            2,
            "PERMISSION_DENIED: Cloud TPU API has not been used in project p",
            "TPU API is off.*gcloud services enable",
        ),
        (2, "ERROR: PERMISSION_DENIED: no access", "needs the role TPU Admin"),
        (75, "Max retries exceeded with url", "did not answer"),
        (2, "ERROR: (gcloud) INVALID_ARGUMENT: bad", "gcloud failed: .*bad"),
    ],
)
def test_create_says_what_gcloud_means(empty_cloud, status, said, match):
  empty_cloud.play(dict(match=" create ", code=1, stderr=f"first\n{said}\n"))
  message = empty_cloud.refuse("create", status=status)
  assert re.search(match, message)


@pytest.mark.parametrize(
    "settings, match",
    [
        (dict(PROJECT=""), "PROJECT must be set.*projects list"),
        (dict(ZONE=""), "ZONE must be set.*locations list"),
        (dict(ACCELERATOR_TYPE="v9-8"), "v5p-.* and a number.*'v9-8'"),
        (dict(ACCELERATOR_TYPE="v4-x"), "and a number.*got 'v4-x'"),
        (
            dict(PROVISIONING="cheap"),
            "one of on-demand spot reserved; got 'che",
        ),
        (dict(QUEUED="yes"), "QUEUED must be one of 0 1; got 'yes'"),
        (dict(BUCKET="gs://b"), "without gs://.*got 'gs://b'"),
        (dict(TPU_ENV="/no/env.sh"), "file /no/env.sh is missing.*env.example"),
    ],
)
def test_settings_that_are_wrong(empty_cloud, settings, match):
  for script in ("create", "status"):
    assert re.search(match, empty_cloud.refuse(script, **settings))
  assert not empty_cloud.calls()


def test_without_gcloud(empty_cloud):
  tools = str(empty_cloud.place / "tools")
  message = empty_cloud.refuse("create", PATH=tools)
  assert "gcloud is not on the PATH. Install the Google Cloud CLI" in message


def test_a_settings_file_that_is_not_whole(empty_cloud):
  path = empty_cloud.place / "env.sh"
  text = path.read_text()
  path.write_text(re.sub("^ZONE=.*\n", "", text, flags=re.M))
  assert re.search(
      "ZONE is missing from .*env.sh", empty_cloud.refuse("create")
  )
  path.write_text(text + "if (\n")
  assert "env.sh is not valid bash" in empty_cloud.run("create", status=2).err


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((), "Both a config and a workdir are needed"),
        ((CONFIG,), "Both a config and a workdir are needed"),
        (("configs/none.py", WORKDIR), "a file of this checkout.*none.py'"),
        (("configs/secret.py", WORKDIR), "git ignores"),
        ((CONFIG, "runs/x"), "must be bucket/FOLDER.*got 'runs/x'"),
        ((CONFIG, "gs://b/x"), "must be bucket/FOLDER.*got 'gs://b/x'"),
    ],
)
def test_a_command_that_is_wrong(empty_cloud, arguments, match):
  for script in ("run", "watch"):
    assert re.search(match, empty_cloud.refuse(script, *arguments))
  assert not empty_cloud.calls()


def test_without_a_slice_the_message_says_what_to_run(empty_cloud):
  for script, *arguments in (
      ("setup",),
      ("run", CONFIG, WORKDIR),
      ("stop",),
      ("logs", "all"),
  ):
    message = empty_cloud.refuse(script, *arguments, status=75)
    assert re.search("no slice siglip in us-.*tpu/create.sh", message)
  assert "siglip: NONE, queue: NONE" in empty_cloud.run("status").out
  assert "deleted" in empty_cloud.run("delete").out
  assert "delete" not in empty_cloud.verbs()
  assert "a number from 0" in empty_cloud.refuse("logs", "one")
  for wrong in ((), ("embed", "--out=x")):
    message = empty_cloud.refuse("python", *wrong)
    assert "A module of siglip_jax is needed" in message


def test_all_that_setup_py_needs_is_pinned():
  call = ast.parse((ROOT / "setup.py").read_text()).body[-1].value
  needed = {k.arg: k.value for k in call.keywords}["install_requires"]
  pins = (ROOT / "tpu" / "constraints.txt").read_text().splitlines()
  pinned = {plain_name(p) for p in pins if "==" in p}
  assert {plain_name(n) for n in ast.literal_eval(needed)} <= pinned
  assert "libtpu" in pinned


def plain_name(requirement):
  """As package indexes compare names."""
  name = re.match(r"[\w.-]+", requirement)[0]
  return re.sub("[-_.]+", "-", name).lower()


def test_setup_installs_what_is_pinned_once(cloud):
  installs = (cloud.place / "installs").read_text().splitlines()
  assert len(installs) == 2
  assert "siglip_jax/tpu/constraints.txt --editable " in installs[0]
  assert installs[0].endswith("/siglip_jax[tpu]")
  mounts = (cloud.place / "mounts").read_text().splitlines()
  assert "my-bucket" in mounts[0] and mounts[0].endswith("/bucket")
  cloud.run("setup")
  assert len((cloud.place / "installs").read_text().splitlines()) == 2
  wrong = (cloud.place / "env.sh").read_text().replace("GREETING=", "1GREETING")
  (cloud.place / "env.sh").write_text(wrong)
  message = cloud.refuse("setup")
  assert re.search("Worker 0 of siglip: WORKER_ENV must hold NAME=", message)
