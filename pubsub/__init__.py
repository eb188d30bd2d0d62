"""Tell everyone: topics, signed messages, and a mesh that spreads them (GossipSub)."""

from ._messages import (
    MAX_DATA as MAX_DATA,
    InvalidMessage as InvalidMessage,
    InvalidTopic as InvalidTopic,
    MessageTooLarge as MessageTooLarge,
    RpcError as RpcError,
)
from ._parameters import Parameters as Parameters, ScoreParameters as ScoreParameters
from ._peers import PROTOCOLS as PROTOCOLS, Version as Version
from ._router import Router as Router
from ._values import (
    Message as Message,
    Statistics as Statistics,
    Validator as Validator,
    Verdict as Verdict,
)
from .service import (
    Overflow as Overflow,
    Pubsub as Pubsub,
    Subscription as Subscription,
    open_pubsub as open_pubsub,
)
