# The packages are installed in one stage and carried into another, so that pip's work stays out of the image.
FROM python:3.12-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/promptjobs
ENV PATH=/opt/promptjobs/bin:$PATH

# The locked packages change less often than the source, so they are a layer of their own.
WORKDIR /build
COPY constraints.txt ./
RUN pip install --require-hashes --only-binary :all: -r constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY migrations ./migrations
COPY src ./src
RUN pip install --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm

# The home directory holds the embedded database when PROMPTJOBS_DATABASE_URL is not set: mount a volume there.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/promptjobs promptjobs
COPY --from=build /opt/promptjobs /opt/promptjobs
ENV PATH=/opt/promptjobs/bin:$PATH \
    PROMPTJOBS_DATA_DIR=/var/lib/promptjobs/data \
    PYTHONUNBUFFERED=1

# By number, so that a platform can verify that it is not root.
USER 10001
WORKDIR /var/lib/promptjobs

EXPOSE 8700
STOPSIGNAL SIGTERM
# A proxy in the environment must not be asked for the container's own address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8700/healthz', timeout=3)"]
ENTRYPOINT ["promptjobs"]
CMD ["serve", "--host", "0.0.0.0"]
