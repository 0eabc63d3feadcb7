"""Which brokers, and with which of librdkafka's options."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from chatstores.errors import InvalidURLError
from chatstores.url import StoreURL, nearest, parse_duration, parse_int, parse_url, refused

__all__ = [
    "OPTIONS",
    "OURS",
    "PORT",
    "check_driver_options",
    "check_topic",
    "connection",
    "hosts_text",
    "is_secret",
    "parse_hosts",
    "topic_of",
]

PORT = 9092
#: Topic names as the broker has them: Kafka's own Topic.validate.
_TOPIC_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")

_OWN = "chatstores sets it, since its promises depend on it"
_PART = "it is a part of the URL, kafka://user:password@host:9092/topic"
_TIMEOUT = "timeout= bounds every call"
_CALLBACK = "chatstores uses librdkafka's callbacks itself"
#: Options of librdkafka that would break a promise, and why.
_REFUSED = {
    **dict.fromkeys(
        (
            "acks",
            "request.required.acks",
            "retries",
            "message.send.max.retries",
            "enable.idempotence",
            "enable.gapless.guarantee",
            "transactional.id",
            "isolation.level",
            "group.id",
            "group.instance.id",
            "group.protocol",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "enable.partition.eof",
            "auto.offset.reset",
            "allow.auto.create.topics",
            "topic.blacklist",
            "message.max.bytes",
            "fetch.message.max.bytes",
            "max.partition.fetch.bytes",
            "fetch.wait.max.ms",
        ),
        _OWN,
    ),
    **dict.fromkeys(("bootstrap.servers", "metadata.broker.list"), _PART),
    **dict.fromkeys(("sasl.username", "sasl.password"), _PART),
    **dict.fromkeys(("message.timeout.ms", "delivery.timeout.ms"), _TIMEOUT),
    "default.topic.config": "give what it holds as options",
    **dict.fromkeys(("request.timeout.ms", "socket.timeout.ms"), _TIMEOUT),
    **dict.fromkeys(
        ("error_cb", "logger", "oauth_cb", "on_commit", "on_delivery", "stats_cb", "throttle_cb"),
        _CALLBACK,
    ),
}
#: Options of librdkafka that are needed most, or have no dot; it has many more.
_KNOWN = (
    "client.id",
    "client.rack",
    "compression.type",
    "debug",
    "linger.ms",
    "log_level",
    "sasl.mechanism",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
)


def _driver_option(value: Any) -> Any:
    """A value for librdkafka, which checks it itself."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or "\0" in str(value):
        raise ValueError("must be text or a number")
    return value


def _up_to(most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = parse_int(value)
        if not 1 <= number <= most:
            raise ValueError(f"must be a whole number from 1 to {most}")
        return number

    return parse


def _consistency(value: Any) -> str:
    if value not in ("linearizable", "eventual"):
        raise ValueError("must be linearizable or eventual")
    return str(value)


def _lag(value: Any) -> float:
    """Seconds; 0 too."""
    return 0.0 if value in (0, "0", "0s", "0.0") else parse_duration(value)


def _directory(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a directory")
    return value


class _Options(dict[str, Callable[[Any], Any]]):
    """Our own options by name, and any that is written as librdkafka's are: with a dot."""

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or (isinstance(name, str) and "." in name)

    def get(self, name: str, default: Any = None) -> Any:
        if name in self:
            return self[name]
        return default

    def __missing__(self, name: str) -> Callable[[Any], Any]:
        return _driver_option


OPTIONS: Mapping[str, Callable[[Any], Any]] = _Options(
    {
        "consistency": _consistency,
        "partitions": _up_to(2**16 - 1),  # what a record's head holds
        "replication_factor": _up_to(2**15 - 1),
        "compaction_lag": _lag,
        "retention": parse_duration,
        "state_dir": _directory,
        **dict.fromkeys(_KNOWN, _driver_option),
        **{name: refused(reason) for name, reason in _REFUSED.items()},
    }
)
#: What is ours of them, and not librdkafka's.
OURS = (
    "consistency",
    "partitions",
    "replication_factor",
    "compaction_lag",
    "retention",
    "state_dir",
)


def topic_of(url: StoreURL) -> str:
    """The topic that a URL names; ``chatstores`` if none."""
    return url.path.removeprefix("/") or "chatstores"


def check_topic(topic: Any) -> str:
    """The name of a topic.

    Raises:
        InvalidURLError: the broker would take none of this name.
    """
    if (
        not isinstance(topic, str)
        or not 1 <= len(topic) <= 249
        or set(topic) - _TOPIC_CHARACTERS
        or topic in (".", "..")
    ):
        raise InvalidURLError(
            f"{topic!r:.80} is no topic's name: 1 to 249 of the characters A-Z a-z 0-9 . _ -"
        )
    return topic


def hosts_text(hosts: Sequence[tuple[str, int | None]]) -> str:
    """Brokers as librdkafka reads them."""
    return ",".join(
        f"[{host}]:{port or PORT}" if ":" in host else f"{host}:{port or PORT}"
        for host, port in hosts
    )


def parse_hosts(servers: Any) -> tuple[tuple[str, int | None], ...]:
    """The brokers of "host:port", with commas between.

    Raises:
        InvalidURLError: they are none.
    """
    if not isinstance(servers, str) or not servers or "/" in servers or "@" in servers:
        raise InvalidURLError('servers must be "host:9092", several with commas between')
    return parse_url(f"kafka://{servers}").hosts


def connection(
    hosts: Sequence[tuple[str, int | None]],
    username: str | None,
    password: str | None,
    driver: Mapping[str, Any],
) -> dict[str, Any]:
    """The options of every client.

    Raises:
        InvalidURLError: they do not go together.
    """
    config: dict[str, Any] = {"bootstrap.servers": hosts_text(hosts), **driver}
    if username is not None:
        if password is None:
            raise InvalidURLError("a user needs a password: kafka://user:password@host:9092/topic")
        config |= {"sasl.username": username, "sasl.password": password}
        config.setdefault("sasl.mechanism", config.pop("sasl.mechanisms", "PLAIN"))
        config.setdefault("security.protocol", "sasl_ssl")
        if "sasl" not in str(config["security.protocol"]).lower():
            raise InvalidURLError(
                f"the option security.protocol={config['security.protocol']} sends no user: it "
                "must be sasl_ssl, or sasl_plaintext"
            )
    elif password is not None:
        raise InvalidURLError("a password needs a user: kafka://user:password@host:9092/topic")
    try:  # without brokers, so that nothing is connected
        Producer({**config, "bootstrap.servers": "", "logger": _SILENT})
    except KafkaException as exc:
        reason = exc.args[0].str().partition("Failed to create producer: ")[2]
        hint = "; is the file there, and readable?" if ".location failed" in reason else ""
        raise InvalidURLError(f"librdkafka refuses the options: {reason}{hint}") from None
    return config


def is_secret(name: str) -> bool:
    """Whether the value of one of librdkafka's options must not be shown."""
    return any(word in name for word in ("password", "secret", ".pem", "oauthbearer.config"))


def check_driver_options(driver: Mapping[str, Any]) -> None:
    """Have librdkafka look at each of its options, without a connection.

    Raises:
        InvalidURLError: it does not know one, or refuses its value.
    """
    for name, value in driver.items():
        try:
            Producer({name: value, "logger": _SILENT})
        except KafkaException as exc:
            reason = exc.args[0].str().strip()
            if reason.startswith("No such configuration property"):
                raise InvalidURLError(
                    f"kafka:// has no option {name!r}{nearest(name, [*OURS, *_KNOWN])}; it has "
                    f"{', '.join(OURS)}, and those of librdkafka"
                ) from None
            if not reason.startswith("Failed to create"):  # for want of another option
                raise InvalidURLError(f"the option {name}: {reason}") from None
        except (AttributeError, TypeError, ValueError) as exc:
            raise InvalidURLError(f"the option {name}: {exc}") from None


#: Where the clients that only check options say what they think of them.
_SILENT = logging.Logger("silent", logging.CRITICAL + 1)
