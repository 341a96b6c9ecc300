"""Has pictures drawn, each in a process of its own, and keeps those that will not change."""

import asyncio
import importlib.util
import logging
import sys
from collections import OrderedDict
from collections.abc import Sequence

from promptjobs.errors.experiments import PlotDefect, PlotInterrupted, PlotsBusy, PlotsUnavailable
from promptjobs.plots import TIME_LIMIT_SECONDS
from promptjobs.plots.figures import PICTURE, Picture, PictureFormat

log = logging.getLogger(__name__)

MAX_WAITING = 16
RETRY_SECONDS = 2.0
MAX_KEPT_BYTES = 32 * 2**20
MAX_LOGGED = 4000

Key = tuple[str, ...]

DRAWING = (sys.executable, "-P", "-m", "promptjobs.plots")
"""-P: what lies in the directory in which the service was started is not imported."""


def require_installed() -> None:
    """Raises PlotsUnavailable. Nothing is imported."""
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotsUnavailable


class Pictures:
    """Pictures of one service. One is drawn at a time: drawing takes a core for about a second.

    A process for each costs that second, and nothing else: what it does and how it ends touches nobody, no memory of
    it stays, and there is nothing to be started, watched or ended with the service.
    """

    def __init__(
        self,
        command: Sequence[str] = DRAWING,
        *,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        max_waiting: int = MAX_WAITING,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        """command: what draws; the format is added to it. max_waiting: requests beside the one being drawn."""
        self._command, self._time_limit_seconds = tuple(command), time_limit_seconds
        self._max_waiting, self._max_kept_bytes = max_waiting, max_kept_bytes
        self._drawing = asyncio.Lock()
        self._asked = 0
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._kept_bytes = 0

    def kept(self, key: Key) -> bytes | None:
        """A picture that was drawn before, and was to be kept."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    async def draw(self, picture: Picture, form: PictureFormat, keep_as: Key | None = None) -> bytes:
        """keep_as: the name under which to keep it, for what will never look different.

        Raises PlotsUnavailable, PlotsBusy, PlotInterrupted, PlotDefect.
        """
        require_installed()
        if self._asked > self._max_waiting:
            raise PlotsBusy(RETRY_SECONDS)
        self._asked += 1
        try:
            async with self._drawing:
                # Whoever waited for the same picture has it now.
                found = None if keep_as is None else self.kept(keep_as)
                if found is None:
                    found = await self._drawn(picture, form)
                    if keep_as is not None:
                        self._keep(keep_as, found)
                return found
        finally:
            self._asked -= 1

    async def _drawn(self, picture: Picture, form: PictureFormat) -> bytes:
        pipe = asyncio.subprocess.PIPE
        # A session of its own: the terminal's Ctrl-C is for the service, which ends the process itself.
        process = await asyncio.create_subprocess_exec(
            *self._command, form.value, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        try:
            async with asyncio.timeout(self._time_limit_seconds):
                content, said = await process.communicate(PICTURE.dump_json(picture))
        except TimeoutError as error:
            raise PlotInterrupted(f"it was not ready within {self._time_limit_seconds:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _checked(process.returncode, content, said)

    def _keep(self, key: Key, content: bytes) -> None:
        self._kept[key] = content
        self._kept_bytes += len(content)
        while self._kept_bytes > self._max_kept_bytes:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone)


def _checked(code: int | None, content: bytes, said: bytes) -> bytes:
    """Raises PlotInterrupted for a process that was ended, PlotDefect for one that failed."""
    if code == 0 and content:
        return content
    if code is not None and code < 0:
        log.warning("the process that draws a plot was ended", extra={"signal": -code})
        raise PlotInterrupted("its process was ended")
    trace = said[-MAX_LOGGED:].decode(errors="replace")
    log.error("a plot could not be drawn", extra={"exit_code": code, "trace": trace})
    raise PlotDefect(trace)
