"""What `AsyncClient` asks for to be looked at: plots of jobs and experiments."""

from promptjobs.sdk import plot_requests
from promptjobs.sdk.async_sender import AsyncSender
from promptjobs.sdk.plot_requests import PlotFormat
from promptjobs.sdk.shapes import Json


class AsyncPlotClient:
    """The part of `AsyncClient` that is about plots."""

    _sender: AsyncSender

    async def plots(self, job_id: str) -> list[Json]:
        return await self._sender.send(plot_requests.plots(job_id))

    async def plot(self, job_id: str, name: str, format: PlotFormat = "svg") -> bytes:  # noqa: A002
        return await self._sender.send(plot_requests.plot(job_id, name, format))

    async def experiment_plots(self, experiment_id: str) -> list[Json]:
        return await self._sender.send(plot_requests.experiment_plots(experiment_id))

    async def experiment_plot(self, experiment_id: str, name: str, format: PlotFormat = "svg") -> bytes:  # noqa: A002
        return await self._sender.send(plot_requests.experiment_plot(experiment_id, name, format))
