/*-------------------------------------------------------------------------
 *
 * repartition.h
 *	  Partitions of a source table that come and go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_REPARTITION_H
#define REHOME_REPARTITION_H

#include "catalog/migration.h"
#include "remote/connection.h"

/* What has come and gone since a position. */
typedef struct RehomeRepartition
{
	List	   *rows;			/* FROM items of "source" rows whose keys count as changed; char * */
	char	   *within;			/* target rows "t" that may be gone, a condition; NULL: none */
} RehomeRepartition;

extern RehomeRepartition *rehome_repartition(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map);

#endif							/* REHOME_REPARTITION_H */
