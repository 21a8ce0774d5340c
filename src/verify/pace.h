/*-------------------------------------------------------------------------
 *
 * pace.h
 *	  How fast a verification goes, and how far it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_PACE_H
#define REHOME_PACE_H

#include "remote/connection.h"

extern void rehome_pace_begin(int tables, int64 rows);
extern void rehome_pace_table(RehomeConn *conn, Oid target);
extern void rehome_pace_part(RehomeConn *conn);
extern void rehome_pace_rows(int64 rows);
extern void rehome_pace_end(void);

#endif							/* REHOME_PACE_H */
