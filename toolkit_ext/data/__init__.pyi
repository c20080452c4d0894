from .corrupted import (
    CorruptionFiles as CorruptionFiles,
)
from .corruptions import (
    CorruptedImages as CorruptedImages,
)
from .dataset import (
    Dataset as Dataset,
)
from .decoding import (
    in_memory as in_memory,
)
from .decoding import (
    place as place,
)
from .extra import (
    open_extra as open_extra,
)
from .images import (
    ImageSet as ImageSet,
)
from .images import (
    ImagesInMemory as ImagesInMemory,
)
from .images import (
    as_image_set as as_image_set,
)
from .items import (
    as_examples as as_examples,
)
from .items import (
    as_tensors as as_tensors,
)
from .joined import (
    JoinedImages as JoinedImages,
)
from .reading import (
    Engine as Engine,
)
from .reading import (
    Reading as Reading,
)
from .sources import (
    NAMES as NAMES,
)
from .sources import (
    load as load,
)
from .sources import (
    open_source as open_source,
)
from .tensors import (
    as_tensor as as_tensor,
)
from .tensors import (
    channel_stats as channel_stats,
)
from .tensors import (
    check_images as check_images,
)
from .tensors import (
    check_labels as check_labels,
)
from .tensors import (
    split_validation as split_validation,
)
from .tensors import (
    to_unit as to_unit,
)
from .tensors import (
    usual_batch as usual_batch,
)
