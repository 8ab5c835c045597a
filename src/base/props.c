/* Named values: see props.h. */
#include "base/props.h"
