"""WandbLogging: a run of a chain as a Weights & Biases run, with settings and metrics per link.

One run of a chain is one W&B run, opened when its first link starts. Nothing else of the process is
collected: no console output, code, git state, machine details or command line. `wandb_model` has
what is logged of a saved model.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..engine import ProgressEvent
from ..engine.naming import name_of
from ..errors import MissingExtraError, ResourceError, SettingError, did_you_mean
from .open_links import OpenLinks, RunNotes, logged_metrics, newest_step, of_run, settings_of
from .redaction import HIDDEN, error_text, redacted
from .wandb_model import log_model, log_tried

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline"]

CLOSING = "birdbone closes a W&B run"
"""Name of the thread that closes a W&B run left open by a plain ``modulink.Chain``."""

_MODES = ("online", "offline")


class _Record:
    """State of one run: its W&B run once opened, and the links running in it."""

    def __init__(self) -> None:
        self.run: wandb.Run | None = None
        self.refused = False
        self.lock = threading.Lock()
        self.links: OpenLinks[float] = OpenLinks()
        self.settings: dict[str, dict[str, Any]] = {}
        self.saved: object = None
        self.tried = 0
        self.places: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.unfinished: weakref.finalize[..., _Record] | None = None


class WandbLogging:
    """Logs settings as config, and time, peak memory and metrics per link when the link ends.

    The loss of each training step is logged while it trains. After waves or candidates one table of
    all of them follows; after `save`, the figures of the dense and the light model as a table and
    as summary values, ``report.html`` as a panel, and the records of the model as an artifact,
    whose source is the original model. A link that runs again goes on with its curves, under the
    number of its run. A failed run ends with exit code 1 and the error's text in its summary.
    Settings and texts that look like a key, token or password are never sent. W&B's global run is
    not used, so other W&B runs may be open in the process. The W&B run ends with the chain's run. A
    plain ``modulink.Chain`` does not report its end to middleware; the W&B run then ends when that
    runtime releases the run's notes.

    Args:
        project: the W&B project.
        name: the run's name; None lets W&B choose.
        mode: ``offline`` writes the run to ``directory`` for ``wandb sync`` and needs no network;
            None uses ``WANDB_MODE``, or online if that is not set.
        directory: where W&B keeps its files, created if missing; None is W&B's default.
        config: further entries of the run's config; secrets are hidden here too.
        tags: the run's tags.
        model_files: also upload the weights and all other files of a saved model.

    Raises:
        SettingError: unknown mode.
        ResourceError: from ``before`` of the first link, if W&B cannot open a run.
    """

    def __init__(
        self,
        *,
        project: str,
        name: str | None = None,
        mode: Mode | None = None,
        directory: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        model_files: bool = False,
    ) -> None:
        if mode is not None and mode not in _MODES:
            raise SettingError(f"WandbLogging has no mode {mode!r}; {did_you_mean(mode, _MODES)}")
        self._project, self._name, self._mode = project, name, mode
        self._directory = directory
        self._config = redacted(config or {})
        self._tags, self._model_files = tuple(tags), model_files

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: RunNotes) -> None:
        """Open the W&B run if this is its first link, and add the link's settings to the config."""
        record, run = await self._opened(mwctx)
        settings = redacted(settings_of(link))
        name = _free_name(name_of(link), settings, {**self._config, **record.settings})
        if settings and name not in record.settings:
            record.settings[name] = settings
            run.config[name] = settings
        record.links.open(link, time.perf_counter())
        record.runs[name_of(link)] += 1

    def progress(self, link: Any, event: ProgressEvent, mwctx: RunNotes) -> None:
        """Log the loss of a training step."""
        record = of_run(self, mwctx, _Record)
        if event.loss is not None and record.run is not None:
            _log_point(record, record.run, name_of(link), "loss", event.loss)

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: RunNotes) -> None:
        """Log the link's cost and metrics, and the figures of what it saved."""
        record, run = await self._opened(mwctx)
        figures = _measured(link, ctx, result, record.links.close(link))
        _log_curves(record, run, name_of(link), figures)
        single = {key: value for key, value in figures.items() if not isinstance(value, list)}
        if single:
            run.log({f"{name_of(link)}/{key}": value for key, value in single.items()})
        if not isinstance(result, Mapping):
            return
        record.tried = log_tried(run, result.get("history", ()), record.tried)
        saved = result.get("saved")
        if saved is not ctx.get("saved") and saved is not record.saved:
            record.saved = saved
            _log_figures(run, getattr(saved, "figures", {}))
            source = getattr(ctx.get("dense"), "source", "")
            await asyncio.to_thread(log_model, run, saved, source, files=self._model_files)

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: RunNotes
    ) -> None:
        """Add the link's error to the summary; a route of the chain may still handle it."""
        if of_run(self, mwctx, _Record).refused:
            return  # W&B itself failed; trying to open a run again would only take time
        record, run = await self._opened(mwctx)
        record.links.close(link)
        run.summary[f"{name_of(link)}/error"] = error_text(error)

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: RunNotes
    ) -> None:
        """Close the W&B run; a failed one with exit code 1 and the error's text."""
        record = of_run(self, mwctx, _Record)
        if record.run is None:
            return
        if record.unfinished is not None:
            record.unfinished.detach()
        if error is not None:
            record.run.summary["error"] = error_text(error)
        await asyncio.to_thread(record.run.finish, exit_code=0 if error is None else 1)

    async def _opened(self, mwctx: RunNotes) -> tuple[_Record, wandb.Run]:
        record = of_run(self, mwctx, _Record)
        run = record.run
        if run is None:
            # Not to_thread: W&B's tasks would inherit this run's context and keep it alive.
            run = await asyncio.get_running_loop().run_in_executor(None, self._open, record)
        return record, run

    def _open(self, record: _Record) -> wandb.Run:
        with record.lock:  # branches of one run may start at the same time
            if record.run is None:
                record.refused = True  # until a run is open
                record.run = self._begin()
                record.refused = False
                record.unfinished = weakref.finalize(record, _abandon, record.run, record.links)
                record.unfinished.atexit = False  # at exit W&B closes its runs itself
            return record.run

    def _begin(self) -> wandb.Run:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                "WandbLogging needs the package wandb; install birdbone[wandb], or run without it"
            ) from error

        if self._directory is not None:
            Path(self._directory).mkdir(parents=True, exist_ok=True)
        try:
            return wandb.init(
                project=self._project,
                name=self._name,
                mode=self._mode,
                dir=self._directory,
                config=self._config,
                tags=self._tags or None,
                settings=_private_settings(),
            )
        except wandb.Error as error:
            raise ResourceError(
                f"W&B could not open an {self._mode or 'online'} run in project "
                f"'{self._project}': {error_text(error)}; log in with `wandb login`, or use "
                f"mode='offline'"
            ) from error


def _private_settings() -> wandb.Settings:
    import wandb

    return wandb.Settings(
        reinit="create_new",
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host=HIDDEN,
    )


def _abandon(run: wandb.Run, links: OpenLinks[float]) -> None:
    """Close a W&B run that ``ended`` did not close; if a link is still running in it, it failed."""
    close = {"exit_code": 1 if len(links) else 0}
    # In a new thread: the notes may be released in any thread, and W&B's own threads cannot wait
    # for the run to close.
    threading.Thread(target=run.finish, kwargs=close, name=CLOSING).start()


def _free_name(name: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Return the link's name in the config, numbered if that name has other settings already."""
    chosen, number = name, 1
    while chosen in known and known[chosen] != settings:
        number += 1
        chosen = f"{name}-{number}"
    return chosen


def _measured(
    link: Any, ctx: Mapping[str, Any], result: Any, start: float | None
) -> dict[str, float | int | str | bool | list[float]]:
    step = newest_step(link, ctx, result)
    if step is None:
        return {} if start is None else {"seconds": time.perf_counter() - start}
    metrics = {key: value for key, value in logged_metrics(step).items() if value is not None}
    return {**metrics, "seconds": step.cost.seconds, "peak_bytes": step.cost.peak_bytes}


def _log_curves(record: _Record, run: wandb.Run, name: str, figures: Mapping[str, Any]) -> None:
    """Log each list a link measured as a curve."""
    for key, values in figures.items():
        if isinstance(values, list):
            for value in values:
                _log_point(record, run, name, key, value)


def _log_point(record: _Record, run: wandb.Run, name: str, key: str, value: float) -> None:
    """Log a point of a curve over its own index, from 0; a later run of the link goes on."""
    curve, place = f"{name}/{key}", f"{name}/{key}/place"
    if curve not in record.places:
        run.define_metric(curve, step_metric=place)
    run.log({place: record.places[curve], curve: value, f"{name}/run": record.runs[name]})
    record.places[curve] += 1


def _log_figures(run: wandb.Run, figures: Mapping[str, Mapping[str, float]]) -> None:
    import wandb

    dense, light = figures.get("dense", {}), figures.get("light", {})
    names = list(dict.fromkeys([*dense, *light]))
    if not names:
        return
    rows = [[name, dense.get(name), light.get(name)] for name in names]
    run.log({"figures": wandb.Table(columns=["figure", "dense", "light"], data=rows)})
    for side, values in (("dense", dense), ("light", light)):
        run.summary.update({f"{side}/{name}": value for name, value in values.items()})
