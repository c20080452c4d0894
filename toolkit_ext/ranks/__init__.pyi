from .errors import (
    RankError as RankError,
)
from .errors import (
    SharedError as SharedError,
)
from .errors import (
    friendly_errors as friendly_errors,
)
from .errors import (
    told_elsewhere as told_elsewhere,
)
from .group import ALONE as ALONE
from .group import Ranks as Ranks
from .launch import current as current
from .launch import start as start
from .launcher import (
    launched as launched,
)
from .launcher import (
    local_rank as local_rank,
)
from .launcher import (
    restarted as restarted,
)
from .launcher import (
    silent as silent,
)
