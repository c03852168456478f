"""Which parameters of a model are matrices for the spectral side, and how each of them stores its matrices."""

from htmuon.routing.foreign_groups import route_groups
from htmuon.routing.routes import Route, Routing
from htmuon.routing.routing import param_groups, route
from htmuon.routing.split import Interleaved
from htmuon.routing.views import matrix_view

__all__ = ["Interleaved", "Route", "Routing", "matrix_view", "param_groups", "route", "route_groups"]
