# Sourced by the scripts beside it: makes .venv at the project's root and installs the project.
# Usage: prepare_environment [EXTRAS]   e.g. prepare_environment test,lint
# MEGASCALE_TORCH names another torch than the one that the tests are run with, e.g. torch==2.11.*

prepare_environment() {
  local extras="${1:-}" python="${PYTHON:-python3}" spec=".[train,tensorboard]" stamp wanted
  local torch="${MEGASCALE_TORCH:-torch==2.13.*}"
  [ -n "$extras" ] && spec=".[train,tensorboard,$extras]"

  if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "megascale needs Python 3.11 or newer; found $("$python" --version 2>&1)." \
        "Set PYTHON=/path/to/python3.11 and start again." >&2
      return 2
    }
    "$python" -m venv .venv || {
      echo "Could not make .venv: on Debian and Ubuntu install python3-venv, then start again." >&2
      return 2
    }
  fi
  command -v "${CXX:-c++}" >/dev/null 2>&1 || {
    echo "No C++ compiler found (looked for ${CXX:-c++}): install g++ or clang, or set CXX." >&2
    return 2
  }

  # What decides the installation: the build files, the native sources, the extras, the interpreter.
  wanted="$(cat pyproject.toml setup.py CMakeLists.txt $(find csrc -type f | sort) 2>/dev/null |
    cksum) $(.venv/bin/python -V) $torch"
  for stamp in .venv/.installed-*; do
    [ -f "$stamp" ] || continue
    if [ "$(cat "$stamp")" = "$wanted" ] && covers "${stamp##*.installed-}" "$extras"; then
      return 0
    fi
  done
  echo "Installing megascale into .venv (the first time: three to ten minutes;
    torch with CUDA is about 5 GB, its CPU build 0.7 GB) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$spec" "$torch"
  printf '%s' "$wanted" >".venv/.installed-${extras:-base}"
}

# covers HAVE WANT: whether every comma-separated extra of WANT is among those of HAVE.
covers() {
  local extra
  for extra in ${2//,/ }; do
    case ",$1," in *",$extra,"*) ;; *) return 1 ;; esac
  done
}
