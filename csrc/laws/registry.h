// All laws. To add one: write its header (core/law.h says what it must hold) and add one line here.
#pragma once

#include "laws/chinchilla.h"
#include "laws/classic.h"
#include "laws/log_quadratic.h"
#include "laws/loss_curve.h"
#include "laws/loss_surface.h"
#include "laws/noise_floor.h"
#include "laws/noise_scale.h"
#include "laws/power_law.h"
#include "laws/two_power.h"
#include "laws/wsd.h"

// A build may bring laws of its own: a header, and a list like the one below; with
// MEGASCALE_ONLY_EXTRA_LAWS these alone, which compiles in seconds.
#ifdef MEGASCALE_EXTRA_LAW_HEADER
#include MEGASCALE_EXTRA_LAW_HEADER
#endif
#ifndef MEGASCALE_EXTRA_LAWS
#define MEGASCALE_EXTRA_LAWS(X)
#endif

#ifdef MEGASCALE_ONLY_EXTRA_LAWS
#define MEGASCALE_LAWS(X) MEGASCALE_EXTRA_LAWS(X)
#else
#define MEGASCALE_LAWS(X) \
  X(Wsd<false>)           \
  X(Wsd<true>)            \
  X(Classic)              \
  X(NoiseFloor)           \
  X(TwoPower)             \
  X(LossSurface)          \
  X(LossCurve)            \
  X(LogQuadratic1)        \
  X(LogQuadratic2)        \
  X(PowerLaw<1>)          \
  X(PowerLaw<2>)          \
  X(PowerLaw<3>)          \
  X(PowerLaw<4>)          \
  X(Chinchilla)           \
  X(NoiseSgd)             \
  X(NoiseSign)            \
  X(NoiseMuon)            \
  MEGASCALE_EXTRA_LAWS(X)
#endif
