/*-------------------------------------------------------------------------
 *
 * round_trip.h
 *	  Whether rows of the source come back as they are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_ROUND_TRIP_H
#define REHOME_ROUND_TRIP_H

#include "apply/inverse.h"

typedef struct RehomeRoundTrip
{
	int64		rows;			/* that were tried */
	int64	   *lost;			/* of each column of the inverse: rows whose value did not come back */
	char	  **example;		/* what became of the first of them */
} RehomeRoundTrip;

extern RehomeRoundTrip *rehome_round_trip(RehomeSlice *slice, RehomeInverse *inverse);

#endif							/* REHOME_ROUND_TRIP_H */
