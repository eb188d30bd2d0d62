"""Tell everyone: topics, signed messages, and a mesh that spreads them (GossipSub)."""

from ._message_id import IdForm as IdForm, read_id as read_id, write_id as write_id
from ._messages import (
    MAX_DATA as MAX_DATA,
    MAX_RPC as MAX_RPC,
    Announcement as Announcement,
    InvalidMessage as InvalidMessage,
    InvalidTopic as InvalidTopic,
    MessageTooLarge as MessageTooLarge,
    Prune as Prune,
    Rpc as Rpc,
    RpcError as RpcError,
    SignedMessage as SignedMessage,
    decode_rpc as decode_rpc,
    encode_rpc as encode_rpc,
)
from ._parameters import Parameters as Parameters, ScoreParameters as ScoreParameters
from ._peers import PROTOCOLS as PROTOCOLS, Version as Version
from ._router import Router as Router
from ._subscription import Overflow as Overflow, Subscription as Subscription
from ._values import (
    Message as Message,
    Statistics as Statistics,
    Validator as Validator,
    Verdict as Verdict,
)
from .service import Pubsub as Pubsub, open_pubsub as open_pubsub
