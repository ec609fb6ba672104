"""The networks that ship with edgekit, and compiled ones as the functions of batches that the simulator calls."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.demo.evaluate import Predict
from edgekit.demo.simulator import Policy

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Network:
    """A shipped network. states: its ONNX inputs that are state, each with the output that is its next value; period: s
    between two inputs where it is used."""

    name: str
    states: dict[str, str]
    period: float

    @property
    def dense(self) -> Path:
        """The network as trained, ONNX."""
        return FOLDER / f"{self.name}.onnx"

    @property
    def tuned(self) -> Path:
        """The network with half of its weights zero in balanced groups, fine-tuned, ONNX."""
        return FOLDER / f"{self.name}-pruned.onnx"

    @property
    def provenance(self) -> dict[str, Any]:
        """Script, seed, licence and the errors when it was made."""
        return json.loads((FOLDER / f"{self.name}.json").read_text("utf-8"))


FORECASTER = Network("forecaster", {}, 0.2)
POLICY = Network("policy", {"h": "h_next"}, 0.1)


def forecaster(bundle: Any, target: str = "host") -> Predict:
    """A compiled forecaster (`edgekit.Bundle`) over many histories, one call each."""
    def predict(histories: np.ndarray) -> np.ndarray:
        return np.concatenate([bundle.run(history[None], target=target)[0] for history in histories])
    return predict


def policy(bundle: Any, target: str = "host") -> Policy:
    """A compiled policy over many episodes that step together: its state is saved and restored for each of them."""
    session = bundle.session(target)
    session.reset()
    fresh = session.save()
    memories: list[bytes] = []

    def act(observations: np.ndarray) -> np.ndarray:
        memories.extend([fresh] * (len(observations) - len(memories)))
        actions = []
        for episode, observation in enumerate(observations):
            session.restore(memories[episode])
            actions.append(bundle.run(observation[None], target=target)[0])
            memories[episode] = session.save()
        return np.concatenate(actions)
    return act
