# The server as an image: packages are built in one stage, and the other has only what runs. See compose.yaml.
FROM python:3.13-slim-trixie AS packages
WORKDIR /srv/callplatform
COPY requirements.txt .
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt

FROM python:3.13-slim-trixie
# pg_dump and its like, for manage.py backup and restore; the newest with its security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /srv/callplatform --no-create-home callplatform
WORKDIR /srv/callplatform
COPY --from=packages /srv/callplatform/.venv .venv
COPY manage.py .
COPY callplatform callplatform
COPY calls calls
COPY devices devices
COPY templates templates
ENV PATH=/srv/callplatform/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The key is of this step alone.
RUN SECRET_KEY="$(python -c 'import secrets; print(secrets.token_urlsafe(48))')" python manage.py collectstatic --noinput \
    && chown -R callplatform:callplatform var
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["python", "manage.py", "serve", "--host", "0.0.0.0", "--port", "8000"]
