"""Running an experiment: each arm with each seed through the trainer, every run in a folder that is kept."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from cnnkit.errors import Misuse, Stopped
from cnnkit.reproduce.experiment import Claim, Experiment, Scale, Size
from cnnkit.reproduce.measures import measured
from cnnkit.reproduce.verdict import Figure, Judgement, Value, figure, judge
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit
from cnnkit.train.recipe import make


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm after its runs.

    Attributes:
        chosen: the setting that was tuned, where one was.
        tried: what each of its values measured with the first seed.
        runs: a run for each seed.
        figures: by measure.
    """

    chosen: dict[str, float]
    tried: dict[float, Value]
    runs: tuple[Directory, ...]
    figures: dict[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An experiment that was run.

    Attributes:
        source: the data.
        trials: by arm.
        judgements: of the claims, in their order.
    """

    experiment: Experiment
    size: Size
    source: str
    seeds: int
    trials: Mapping[str, Trial]
    judgements: tuple[tuple[Claim, Judgement], ...]

    @property
    def scale(self) -> Scale:
        """What was run of the experiment."""
        return self.experiment.scales[self.size]

    @property
    def differences(self) -> list[str]:
        """From the paper's protocol, with those that the data brought."""
        found = list(self.scale.differences)
        usual = self.experiment.recipe(self.size, next(iter(self.trials))).get("data")
        if usual not in {None, self.source}:
            given = Path(self.source).name
            found.append(f"the data were given with --data ({given}), in the place of {usual} as it is")
        if any("test" not in run.summary for trial in self.trials.values() for run in trial.runs):
            found.append("the data have no test part, so the part that chose the checkpoint scores it")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `result.json` has them."""
        seconds = sum(run.summary["training_seconds"] for trial in self.trials.values() for run in trial.runs)
        return {
            "experiment": self.experiment.name,
            "scale": self.size,
            "data": self.source,
            "seeds": self.seeds,
            "machine": platform.processor() or platform.machine(),
            "training_seconds": round(seconds, 1),
            "claims": [
                {"says": claim.says, "verdict": found.verdict, "reason": found.reason, "paper": claim.paper}
                for claim, found in self.judgements
            ],
            "arms": {name: self._arm(name, trial) for name, trial in self.trials.items()},
            "differences": self.differences,
        }

    def _arm(self, name: str, trial: Trial) -> dict[str, Any]:
        return {
            "about": self.experiment.arms[name].about,
            "settings": self.experiment.recipe(self.size, name) | trial.chosen,
            "parameters": trial.runs[0].summary["parameters"],
            "tried": {f"{value:g}": asdict(found) for value, found in trial.tried.items()},
            "ours": {measure: found.to_json() for measure, found in trial.figures.items()},
            "paper": dict(self.experiment.arms[name].paper),
            "runs": [str(run.path) for run in trial.runs],
        }


def reproduce(
    experiment: Experiment,
    size: Size,
    output: Path,
    *,
    console: Console,
    source: str | None = None,
    data_dir: str | Path = "data",
    seeds: int | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run an experiment; runs that are there and finished are not run again, others are gone on with.

    Args:
        output: the folder of its runs.
        source: data in the place of the scale's own.
        seeds: runs of each arm, in the place of the scale's own.
        machine: settings of the recipe that say where to run: device, threads, workers.

    Raises:
        Misuse: the folder has runs with other settings, or a name is wrong.
        Failure: a run could not be done.
        Stopped: it was interrupted; what was done is saved.
    """
    scale = experiment.scales[size]
    count = seeds or scale.seeds
    base = {name: {**experiment.recipe(size, name), **(machine or {})} for name in experiment.arms}
    where = source or next(iter(base.values())).get("data")
    if where is None:
        raise Misuse(
            f"{experiment.name} at scale {size} needs data of yours ({scale.time}); give --data PATH"
        )
    bench = _Bench(output, str(where), data_dir, console)
    trials: dict[str, Trial] = {}
    for name in experiment.arms:
        trials[name] = _trial(experiment, scale, name, base[name], bench, count)
    for name, measure in experiment.measures.items():
        level = trials[measure.level_of].runs if measure.level_of else (None,) * count
        for trial in trials.values():
            values = [measured(measure, run, best) for run, best in zip(trial.runs, level, strict=True)]
            trial.figures[name] = figure(values)
    judgements = tuple(
        (
            claim,
            judge(trials[claim.less].figures[claim.measure], trials[claim.more].figures[claim.measure]),
        )
        for claim in experiment.claims
    )
    return Outcome(experiment, size, str(where), count, trials, judgements)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where runs go and what they read."""

    output: Path
    source: str
    data_dir: str | Path
    console: Console

    def run(self, label: str, settings: Mapping[str, Any]) -> Directory:
        """The run of these settings: as it is, gone on with, or begun."""
        directory = Directory(self.output / label)
        settings = {name: value for name, value in settings.items() if name != "data"}
        if directory.is_begun:
            self._check(directory, settings)
        if (directory.path / "summary.json").is_file():
            self.console.print(f"{label}: there already", highlight=False)
            return directory
        self.console.print(f"{label}:", highlight=False)
        given: dict[str, Any] = {"output": directory.path, "console": self.console, **settings}
        try:
            if directory.is_begun:
                return fit(resume=True, output=directory.path, console=self.console)
            return fit(self.source, data_dir=self.data_dir, overwrite=directory.is_taken, **given)
        except Stopped as stop:
            raise Stopped(f"{stop}, or with all the rest by the same `cnnkit reproduce` command") from None

    def _check(self, directory: Directory, settings: Mapping[str, Any]) -> None:
        """Refuse a run of other settings or data."""
        stored, where = directory.config["recipe"], directory.config["data"]["source"]
        asked = make(settings, "settings").to_dict()
        given = str(Path(self.source).resolve()) if Path(self.source).is_dir() else self.source
        named = [name for name in asked if any(n.partition(".")[0] == name for n in settings)]
        differ = [n for n in named if n not in PLACE and not _is_of(asked[n], stored.get(n))]
        if differ:
            name = differ[0]
            raise Misuse(
                f"{directory.path} was run with {name} = {stored.get(name)}, not {asked[name]}; name another "
                f"folder with --output"
            )
        if where != given:
            raise Misuse(
                f"{directory.path} was run on {where}, not {given}; name another folder with --output"
            )


#: Settings that may differ between the runs of one experiment.
PLACE = {"device", "threads", "workers", "cache", "data"}


def _is_of(asked: Any, stored: Any) -> bool:
    """Whether a stored setting is the asked one, with what was open in it filled in."""
    if isinstance(asked, Mapping) and isinstance(stored, Mapping):
        return all(_is_of(value, stored.get(name)) for name, value in asked.items())
    if isinstance(asked, list | tuple) and isinstance(stored, list):  # a file has no tuples
        return len(asked) == len(stored) and all(map(_is_of, asked, stored))
    return bool(asked == stored)


def _trial(
    experiment: Experiment,
    scale: Scale,
    name: str,
    settings: Mapping[str, Any],
    bench: _Bench,
    seeds: int,
) -> Trial:
    """All runs of one arm, its setting chosen with the first seed where the scale tunes one."""
    chosen: dict[str, float] = {}
    tried: dict[float, Value] = {}
    label = name
    measure = experiment.measures[experiment.claims[0].measure]
    for setting, values in scale.tune.items():
        runs = {v: bench.run(f"{name}-{v:g}-seed0", {**settings, setting: v, "seed": 0}) for v in values}
        tried = {v: measured(measure, run, None) for v, run in runs.items()}
        chosen[setting] = least(tried)
        label = f"{name}-{chosen[setting]:g}"
    kept: Sequence[Directory] = [
        bench.run(f"{label}-seed{seed}", {**settings, **chosen, "seed": seed}) for seed in range(seeds)
    ]
    return Trial(chosen, tried, tuple(kept))


def least(tried: Mapping[float, Value]) -> float:
    """What measured least; what got somewhere before what did not, and the first of equal ones."""
    return min(tried, key=lambda value: (tried[value].at_least, tried[value].number))
