# docker build -t mossvl .                             for GPUs
# docker build -t mossvl --build-arg TORCH=cpu .       for CPUs
# docker run --gpus all -p 8000:8000 -e MOSSVL_API_KEY=… -v /models:/models mossvl -c /models/MOSS-VL-Instruct-0708
FROM python:3.12-slim AS build

ARG TORCH=cu128
# The version of a tag, which an image that is built without the repository's history does not know.
ARG VERSION=
WORKDIR /src
# hadolint ignore=DL3013
RUN pip install --no-cache-dir uv
COPY . .
RUN python -m venv /opt/mossvl \
    && SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MOSSVL=$VERSION uv pip install --python /opt/mossvl/bin/python --no-cache \
       --torch-backend "$TORCH" --constraint constraints.txt '.[serve]'

FROM python:3.12-slim
# Triton compiles its launchers with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 mossvl
COPY --from=build /opt/mossvl /opt/mossvl
USER 1000
ENV PATH=/opt/mossvl/bin:$PATH
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["mossvl", "serve", "--host", "0.0.0.0"]
