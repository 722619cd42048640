# The binary on Debian's libtorch: the function (command `lambda`) and the CPU variant of a
# bulk run (`reconcile`). The context is dist/cpu, which scripts/bundle.sh fills.
# Never built in this repository: there is no Docker where its tests run.
FROM debian:12.12-slim@sha256:d5d3f9c23164ea16f31852f95bd5959aad1c5e854332fe00f7b3a20fcc9f635c

# The release of Debian fixes the versions; libtorch has to be the one that the binary was linked to.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libopenblas0-openmp libtorch1.13=1.13.1+dfsg-4 \
 && rm -rf /var/lib/apt/lists/*

COPY catalog-labels /usr/local/bin/catalog-labels
COPY model /opt/catalog-labels/model
# A function has two cores from 3,538 MB of memory on, and one below that: replicas follow the cores.
ENV CATALOG_LABELS_ARTIFACT=/opt/catalog-labels/model \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1

USER 10001:10001
ENTRYPOINT ["catalog-labels"]
CMD ["--help"]
