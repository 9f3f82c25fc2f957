"""Settings from the environment and .env, checked by name before anything starts."""

import os
import re
from typing import Annotated, Self

from dotenv import dotenv_values
from pydantic import Field, HttpUrl, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from codeloc.errors import CodelocError
from codeloc.home import ROOT

ENV_FILE = ROOT / ".env"
_PASSWORD_SUFFIX = "_DB_PASSWORD"  # noqa: S105  (a name, not a password)

# What a setting must look like, in words rather than as a pattern.
_SHAPES = {
    "warehouse_data": "must be an absolute folder or s3://bucket/prefix",
    "warehouse_memory_limit": "must be a size, for example 500MB or 2GB",
}

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Every setting of the platform; `.env.example` says what each does."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore")

    webserver_port: Port = 3000
    files_port: Port = 3001
    public_url: HttpUrl | None = None
    admin_password: SecretStr | None = None

    postgres_host: str | None = None
    postgres_port: Port = 5432
    postgres_user: str = "postgres"
    postgres_password: SecretStr | None = None

    alerts: SecretStr = SecretStr("")

    tlc_base_url: HttpUrl | None = None
    taxi_zones_url: HttpUrl | None = None

    warehouse_data: str | None = Field(default=None, pattern=r"^(/|s3://[^/]+)")
    warehouse_threads: int = Field(default=2, ge=1)
    warehouse_memory_limit: str = Field(default="2GB", pattern=r"^\d+(\.\d+)?\s*([KMGT]i?)?B$")
    warehouse_s3_endpoint: str = ""
    warehouse_s3_region: str = "us-east-1"
    warehouse_s3_access_key_id: str = ""
    warehouse_s3_secret_access_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not all("://" in word for word in self.alerts.get_secret_value().split()):
            raise ValueError("ALERTS: must be addresses, or team=address, with spaces between them")
        if self.postgres_host and self.postgres_password is None:
            raise ValueError("POSTGRES_PASSWORD: is missing, and POSTGRES_HOST is set")
        on_s3 = (self.warehouse_data or "").startswith("s3://")
        if on_s3 and not (self.warehouse_s3_access_key_id and self.warehouse_s3_secret_access_key.get_secret_value()):
            raise ValueError(
                "WAREHOUSE_S3_ACCESS_KEY_ID and WAREHOUSE_S3_SECRET_ACCESS_KEY: needed when WAREHOUSE_DATA is on S3"
            )
        return self

    def alerts_of(self, team: str) -> list[str]:
        """What of ALERTS is for a team: its own addresses, and those for everybody."""
        words = self.alerts.get_secret_value().split()
        return [word for word in words if word.startswith(f"{team}=") or not re.match(r"[a-z0-9_]+=", word)]


def load_settings() -> Settings:
    """The settings, or an error that lists every wrong one by its name."""
    try:
        return Settings()
    except UnicodeDecodeError as error:
        raise CodelocError(f"{ENV_FILE} is not text in UTF-8: {error}") from None
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            text = re.sub("^Value error, ", "", problem["msg"])
            if problem["type"] == "string_pattern_mismatch":
                text = _SHAPES[str(problem["loc"][0])]
            if problem["loc"]:
                text = f"{str(problem['loc'][0]).upper()}: {text} (it is {problem['input']!r})"
            problems.append(f"  {text}")
        listed = "\n".join(problems)
        raise CodelocError(
            f"these settings in the environment or {ENV_FILE} are wrong:\n{listed}\nSee .env.example for each."
        ) from None


def database_passwords() -> dict[str, str]:
    """Passwords of database roles that were set as ROLE_DB_PASSWORD, by role."""
    return {
        name.removesuffix(_PASSWORD_SUFFIX).lower(): value
        for name, value in (dotenv_values(ENV_FILE) | os.environ).items()
        if name.endswith(_PASSWORD_SUFFIX) and value
    }


def inherited_environment() -> dict[str, str]:
    """What every process of the platform inherits: the environment and .env, without passwords."""
    environment = {name: value for name, value in (dotenv_values(ENV_FILE) | os.environ).items() if value is not None}
    return {
        name: value
        for name, value in environment.items()
        if not name.endswith(_PASSWORD_SUFFIX)
        and name
        not in {
            "POSTGRES_PASSWORD",
            "ADMIN_PASSWORD",
            # Each team's own are given to its location.
            "ALERTS",
            # Processes import the same modules again and again: without bytecode that takes 2.5 times as long.
            "PYTHONDONTWRITEBYTECODE",
            "VIRTUAL_ENV",
        }
    }
