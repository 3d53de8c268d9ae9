# One image for web, worker and beat; docker-compose.yml says which is which.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 \
    DJANGO_SETTINGS_MODULE=config.settings RUNYARD_HOME=/data

WORKDIR /app
# base: without Spark and its Java (a third of the size), for jobs of other kinds alone.
ARG LOCK=spark
COPY requirements/ requirements/
RUN pip install --no-cache-dir --require-hashes -r "requirements/$LOCK.lock"
COPY . .

# Root, so that the worker can run each workspace's jobs as a user of their own.
VOLUME /data
EXPOSE 8080
CMD ["python", "-m", "uvicorn", "config.asgi:application", "--host", "0.0.0.0", "--port", "8080", "--timeout-graceful-shutdown", "2"]
