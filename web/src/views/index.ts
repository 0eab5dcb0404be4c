import type { View } from '../view';
import { flows } from './flows';
import { hosts } from './hosts';
import { map } from './map';
import { matrix } from './matrix';
import { mgen } from './mgen';
import { monitoring } from './monitoring';
import { overview } from './overview';
import { paths } from './paths';
import { talkers } from './talkers';

/** All views, in the order of their tabs and keys. The first one is the home page. */
export const views: readonly View[] = [map, overview, paths, flows, hosts, matrix, mgen, talkers, monitoring];
