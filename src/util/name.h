/*-------------------------------------------------------------------------
 *
 * name.h
 *	  Names of local objects as SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_NAME_H
#define REHOME_NAME_H

extern char *rehome_relation_name(Oid relid);

#endif							/* REHOME_NAME_H */
