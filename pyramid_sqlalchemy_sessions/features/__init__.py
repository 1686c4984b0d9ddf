"""The features that a model can have, one file each."""

from __future__ import annotations

from ..feature import Feature
from .absolute import Absolute, ConfigAbsolute
from .client_address import ClientAddress
from .cookies import ConfigCookie
from .csrf import CSRF
from .idle import ConfigIdle, Idle
from .last_seen import LastSeen
from .renewal import ConfigRenewal, Renewal
from .user_agent import UserAgent
from .userid import Userid

__all__ = ["FEATURES", "features_of"]

#: All features, in the order in which they act. If a feature has two forms, a model has
#: the first one whose mixin is among its bases. Renewal judges first, so that a stolen
#: cookie is noticed even when its session has expired.
FEATURES: tuple[tuple[type[Feature], ...], ...] = (
    (ConfigRenewal, Renewal),
    (ConfigIdle, Idle),
    (ConfigAbsolute, Absolute),
    (ConfigCookie,),
    (Userid,),
    (CSRF,),
    (LastSeen,),
    (UserAgent,),
    (ClientAddress,),
)


def features_of(model_class: type) -> tuple[Feature, ...]:
    """Return the features that the mixins of the model give to it."""
    features: list[Feature] = []
    for forms in FEATURES:
        for form in forms:
            if issubclass(model_class, form.mixin):
                features.append(form())
                break
    return tuple(features)
