"""Rules that decide a claim: a quantity, the bounds that it should lie between, and those that refute the claim."""

from toolkit_ext.claims.rules.bounds import AtLeast, AtMost
from toolkit_ext.claims.rules.differences import Alike, Lower, Ratio
from toolkit_ext.claims.rules.parts import POINTS, half
from toolkit_ext.claims.rules.trends import All, Trend

__all__ = ["POINTS", "Alike", "All", "AtLeast", "AtMost", "Lower", "Ratio", "Trend", "half"]
