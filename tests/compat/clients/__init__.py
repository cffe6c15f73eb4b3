"""One class a client, all with the methods of `base.Client`."""

from .console import Console
from .kcat import Kcat
from .piped import Franz, Java
from .python import AioKafka, KafkaPython, LibRdKafka

ALL = [Kcat, LibRdKafka, Console, Java, Franz, AioKafka, KafkaPython]
