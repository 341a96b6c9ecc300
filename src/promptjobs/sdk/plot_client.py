"""What `Client` asks for to be looked at: plots of jobs and experiments."""

from promptjobs.sdk import plot_requests
from promptjobs.sdk.plot_requests import PlotFormat
from promptjobs.sdk.sender import Sender
from promptjobs.sdk.shapes import Json


class PlotClient:
    """The part of `Client` that is about plots. A service without its extra `plots` answers a ServerError of 501."""

    _sender: Sender

    def plots(self, job_id: str) -> list[Json]:
        """What can be drawn of a job: names, and what each shows."""
        return self._sender.send(plot_requests.plots(job_id))

    def plot(self, job_id: str, name: str, format: PlotFormat = "svg") -> bytes:  # noqa: A002 - the service's own word
        """The file of a plot, as things stand now. Raises NotFoundError for a name that there is not."""
        return self._sender.send(plot_requests.plot(job_id, name, format))

    def experiment_plots(self, experiment_id: str) -> list[Json]:
        """What can be drawn of an experiment."""
        return self._sender.send(plot_requests.experiment_plots(experiment_id))

    def experiment_plot(self, experiment_id: str, name: str, format: PlotFormat = "svg") -> bytes:  # noqa: A002
        """The file of a plot of an experiment, as its jobs stand now."""
        return self._sender.send(plot_requests.experiment_plot(experiment_id, name, format))
