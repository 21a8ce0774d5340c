/*-------------------------------------------------------------------------
 *
 * throttle.h
 *	  Sparing the source.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_THROTTLE_H
#define REHOME_THROTTLE_H

#include "remote/connection.h"

/* How soon, in milliseconds, a busy source is asked again. */
#define REHOME_THROTTLE_NAP 500

/* How many processes share rehome.max_rate with this one, itself included. */
extern int	rehome_throttle_sharers;

extern void rehome_throttle_bytes(int64 bytes);
extern char *rehome_throttle_reason(RehomeConn *conn);

#endif							/* REHOME_THROTTLE_H */
