"""Settings of every command and of TRL: names, ranges and help; read from files and flags, checked in one place.

A configuration is one flat frozen dataclass. A setting has the same name in code, YAML (`policy_learning_rate`), on the
command line (`--policy-learning-rate`) and in the docs; its help and its range stand beside its default, and checks,
`--help` and the reference page are made from them.
"""

from foresighted.settings.compare import OF_AN_ARM, CompareConfig, arm_from_text, each_once
from foresighted.settings.fields import GROUPS, OLD_NAMES, Settings, choices, faults, hints, setting, settings
from foresighted.settings.files import (
    as_it_was,
    from_mapping,
    from_text,
    inner,
    load_yaml,
    names,
    read_yaml,
    renamed,
    to_mapping,
    to_yaml,
)
from foresighted.settings.learning import LearningConfig, check_labels
from foresighted.settings.presets import PRESETS, preset
from foresighted.settings.rehearse import RehearseConfig
from foresighted.settings.steering import SCOPE, SteeringConfig
from foresighted.settings.train import MAY_CHANGE_ON_RESUME, TrainConfig

__all__ = [
    "GROUPS",
    "MAY_CHANGE_ON_RESUME",
    "OF_AN_ARM",
    "OLD_NAMES",
    "PRESETS",
    "SCOPE",
    "CompareConfig",
    "LearningConfig",
    "RehearseConfig",
    "Settings",
    "SteeringConfig",
    "TrainConfig",
    "arm_from_text",
    "as_it_was",
    "check_labels",
    "choices",
    "each_once",
    "faults",
    "from_mapping",
    "from_text",
    "hints",
    "inner",
    "load_yaml",
    "names",
    "preset",
    "read_yaml",
    "renamed",
    "setting",
    "settings",
    "to_mapping",
    "to_yaml",
]
