# docker build --tag bigbigan .
# docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" bigbigan train small/digits --out runs/digits
#
# On Linux the default PyTorch computes on NVIDIA GPUs (docker run --gpus all) and on CPUs. For its smaller CPU build give
# the address of PyTorch's package index for CPUs, from pytorch.org: --build-arg TORCH_INDEX=ADDRESS
FROM python:3.12-slim

ARG TORCH_INDEX=""
ARG EXTRAS="parquet"
# OWNER/NAME on GitHub, from where the weights that are not in the wheel are fetched.
ARG BIGBIGAN_REPOSITORY=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /build
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src ./src
COPY results ./results
RUN pip install -c constraints.txt ".[$EXTRAS]"

# A user without rights, and a folder for data sets and keys that any user given by --user may write to.
RUN useradd --uid 1000 --create-home bigbigan && mkdir -p /data /cache && chmod 1777 /data /cache
ENV HOME=/cache XDG_CACHE_HOME=/cache XDG_STATE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
USER bigbigan
WORKDIR /data
ENTRYPOINT ["bigbigan"]
CMD ["--help"]
