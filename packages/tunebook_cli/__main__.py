import sys

from tunebook_cli.main import main

sys.exit(main())
