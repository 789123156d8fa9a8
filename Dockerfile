# The operator, and inspection of datasets. Without torch.
#
#     docker build -t operator .
#     buildah build -t operator .
#
# docs/images.md describes its contents, and how BASE is pinned.
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Only the project, which is copied over the virtual environment of the image.
FROM ${BASE} AS project
COPY requirements-build.lock /opt/
RUN python -m venv /opt/tools \
 && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /opt/requirements-build.lock \
 && python -m venv --without-pip /opt/venv
WORKDIR /src
COPY . .
RUN /opt/tools/bin/uv build --quiet --wheel --no-build-isolation --python /opt/tools/bin/python --out-dir dist \
 && PYC_INVALIDATION_MODE=UNCHECKED_HASH /opt/tools/bin/uv pip install --python /opt/venv/bin/python --no-cache \
        --no-deps --compile-bytecode --prefix /opt/project dist/*.whl

FROM ${BASE}
RUN groupadd --gid 65532 teacher \
 && useradd --uid 65532 --gid teacher --key UID_MAX=65532 --no-log-init --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin teacher
# The pinned packages are a separate layer: it is large and rarely changes, and the project is small. Bytecode is never
# compared with its source, because layers may get other time stamps. Large unused files are removed: tests of packages, the
# Kubernetes client's typed models and calls (objects are plain JSON here), and the descriptions of the 430 AWS services that
# serve neither storage nor credentials.
COPY requirements-build.lock requirements-operator.lock /opt/
RUN python -m venv /opt/tools \
 && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /opt/requirements-build.lock \
 && python -m venv --without-pip /opt/venv \
 && PYC_INVALIDATION_MODE=UNCHECKED_HASH /opt/tools/bin/uv pip sync --python /opt/venv/bin/python --no-cache \
        --require-hashes --no-build --compile-bytecode /opt/requirements-operator.lock \
 && cd /opt/venv/lib/python*/site-packages \
 && find . -type d -name tests -prune -exec rm -r {} + \
 && find kubernetes -type f \( -path '*/client/api/*' -o -path '*/client/models/*' \) ! -name '__init__.*' -delete \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name signin ! -name sso ! -name sso-oidc ! -name sts -exec rm -r {} + \
 && rm -r /opt/tools
COPY --from=project /opt/project /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["teacher-operator"]

# Last, so another revision reuses all layers above.
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="teacher-finetune operator" \
      org.opencontainers.image.description="Turns TeacherFineTune objects into Jobs and their results into status; inspects COCO data." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
