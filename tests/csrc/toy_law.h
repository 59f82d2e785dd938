// The law that the page of core/law.h shows, cut out of it by the build, and the one line that
// registers a law.
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

#include "toy_law.inc"

}  // namespace MS_ISA
}  // namespace megascale

#define MEGASCALE_EXTRA_LAWS(X) X(ToyLaw)
