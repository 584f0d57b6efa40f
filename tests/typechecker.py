"""Run-time type checks under pytest: an int is a float, as in PEP 484."""

from beartype import BeartypeConf
from beartype import beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
