# The online service on inf1: the same release and model that the worker hosts unpack. The
# context is dist/intent, which scripts/bundle.sh fills.
# Never built in this repository: there is no Docker where its tests run.
FROM debian:12.12-slim@sha256:d5d3f9c23164ea16f31852f95bd5959aad1c5e854332fe00f7b3a20fcc9f635c

# The release of Debian fixes the versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
 && rm -rf /var/lib/apt/lists/*

# Unpacked by ADD: bin/ and lib/ with libtorch 1.13.1 and the Neuron op library; the model.
ADD catalog-labels.tar.gz /opt/catalog-labels/
ADD model.tar.gz /opt/catalog-labels/model/
ENV CATALOG_LABELS_ARTIFACT=/opt/catalog-labels/model \
    LD_LIBRARY_PATH=/opt/catalog-labels/lib \
    PATH=/opt/catalog-labels/bin:$PATH \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1

USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["catalog-labels"]
CMD ["serve"]
